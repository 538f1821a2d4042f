// Package systemd carries the units of Leeward, for those who install them elsewhere.
//
// It never changes them: a unit is the text that the packages ship.
package systemd

import _ "embed" // the unit

// Agent is the unit of leeward-agent; its binary is /usr/bin/leeward-agent.
//
//go:embed leeward-agent.service
var Agent string
