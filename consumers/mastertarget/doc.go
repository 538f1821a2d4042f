// Package mastertarget brings the disk of a machine back home: it makes the original
// disk, a new one or an image the same as the disk at a recovery point, with as little
// as possible fetched from the vault.
//
//	Open    refuses what is not the right disk, is too small, or is in use
//	Bring   makes it as at a point: compares sums first, fetches what differs
//	Bring   again, with newer points: only what changed between them
//	Verify  reads all of the disk and compares it with what the point promises
//
// # What is known of the disk
//
// A record beside it (in Config.StateDir) says for each region of the disk at which
// positions its blocks may be: every block that is the same at all of them is as it is
// there; of the others nothing is believed. It is saved before the first block of a new
// position is written, and advanced only when what was written is on stable storage. So
// after a power failure at any moment the next Bring, to the same point or to another,
// looks at the blocks that differ between what may be and what shall be, and no others.
// A region without positions is compared as a whole: as at the beginning, and when a
// position is not kept in the vault any more.
//
// Nothing keeps others from writing to the disk between two runs. Verify finds that, and
// makes the next Bring compare everything.
//
// # Disks in another machine
//
// With Config.Rescue the disk is in a machine that runs `leeward-agent rescue`, at the other
// end of the bus (package streams/rescue). The record stays here: a rescue keeps nothing, and
// what it had not synced when it went away is not believed. Reach takes it over from whoever
// had it; ErrAnew says that it was started anew, and that it is to be reached again.
//
// The package writes nothing to the vault, and never decides which point is to be brought home. It never writes to a disk that is mounted or otherwise in
// use.
package mastertarget
