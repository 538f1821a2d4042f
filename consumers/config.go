package consumers

import "github.com/leeward-dr/leeward/consumers/process"

// Config is the settings of the process role.
type Config = process.Config

// Default is what the appliance uses.
func Default() Config { return process.Default() }
