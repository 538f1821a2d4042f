// Package standby keeps copies of machines' disks in Azure near their newest recovery
// points, so that a failover there sends the last difference and not whole disks.
//
// It decides what is due (Due, which is pure): a machine whose policy has a standby
// interval is brought to its newest point when the copy is older than that. What no policy
// wants any more is removed. One machine is brought at a time; the changes come out of the
// vault by the sums of the blocks, never from the machine.
//
// What a copy holds is written in the copy (package azure); this package keeps nothing on
// disk. Points that copies are at must not be tidied away, or what changed since could only
// be found by reading all of it: InUse names them.
//
// The package never changes a recovery point, never makes a machine, and never removes what
// it cannot be sure is not wanted: without rules it does nothing.
package standby
