// Package reverse re-protects a machine that runs at the recovery site: it publishes what
// the machine changes, as an agent at its old home would, in new epochs of the same disks.
// So the vault gets recovery points of it, and a master target can bring it home.
//
// The machine needs no agent for that. Its disks are recovery points with an overlay, so
// what it changed is known exactly, and it stands still for a moment at its hypervisor
// when a point is cut.
//
// # What is sent
//
// An epoch starts where the vault stands, which may be behind the point that the machine
// was brought up from: its old home went on until it was lost. So the first thing of every
// epoch is a comparison by sums of all blocks that can differ: those that the machine
// changed, and those that are not the same at the point and where the vault stands. What
// differs is sent. Nothing else is read. An epoch that ended early, also by the death of
// the process, is followed by another one: the overlay forgets no change, so nothing has
// to be remembered of what was on the way.
//
// Then rounds: what changed since the round before is read and sent, until little is left;
// then the machine is stopped, the rest is read into memory, and it goes on. Its points are
// as after a power failure, with all that it flushed in them. They have it from the
// exporter that the machine stood still.
//
// The package never writes to a disk or to the vault, and promises no recovery point:
// control does, when the vault has it.
package reverse
