// Package quiesce holds filesystems still for the moment of a cut.
//
// It owns the freeze (FIFREEZE), its bound in time, and the guard: a process of
// its own that thaws everything when the bound is over or the agent is gone. A
// machine with a frozen root filesystem is a dead machine, so nothing in here
// relies on the agent staying alive, being scheduled, or being right.
//
// # Order
//
// Filesystems are synced twice, the guard is armed with open descriptors of every
// mountpoint, then they are frozen level by level: those that live in files of
// others first, because freezing writes, and writes must still go through below.
// Thawing is done for all at once: one may have to wait for another.
//
// # Certainty
//
// Thaw succeeds only if every filesystem was still frozen when this process thawed
// it. If the guard, or anybody, was faster, the kernel says so and Thaw returns
// ErrThawed: what was read in between is not one instant.
//
// # Refusals
//
// A filesystem is refused if it holds a path in Options.Avoid: whatever the agent
// writes while it is frozen would wait for the agent itself. The program file
// counts as such a path unless its pages are locked in memory, and so does a swap
// file, whose contents change under the freeze. The root filesystem gets no rule
// of its own: protecting whole servers is the point, reading from a frozen
// filesystem works, and what is dangerous about it (state, logs, program, swap) is
// covered by the rules above. Between Freeze and Thaw the agent must write no
// file, log nothing, and start no process.
//
// Filesystems that cannot be frozen at all (vfat) are synced and reported in
// Frozen.Skipped: the cut's guarantee must say so.
//
// Run the agent so that agent and guard are not killed together (systemd:
// KillMode=process): with both gone nobody thaws.
//
// It never reads a disk and never decides when to cut.
package quiesce
