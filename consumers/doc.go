// Package consumers is the read side of the streams: the process role. It owns the
// role's settings and how its parts are put together.
//
//	streams ─► process ─► optimize ─► vault
//
// process follows the disks' chains, optimize makes batches of them, vault keeps
// them. This package decides nothing itself.
package consumers
