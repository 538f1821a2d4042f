// Package scan finds what changed on a disk by hashing all of it.
//
// It owns two things. Source is the capture driver that works everywhere: it keeps
// a sum per block as of the last Take and reports the blocks whose sum differs.
// Compare holds a disk against sums that somebody else has (the vault) and hands
// on what differs: initial replication and resync.
//
// # What holds
//
// Nothing is missed on a disk at rest. On a disk in use a Take is not an instant:
// it reads the disk from begin to end, and each block is as it was when it was
// read. Reading a block again after Take may give newer contents than the table
// knows; the caller must then tell the table what it sent (Source.Seed), else a
// block that goes back to its old contents is not noticed.
//
// Cost: the whole disk is read for each Take, except holes of image files; the table
// takes 16 bytes for each block that is not zero, 4 GiB for a full TiB: of memory, or
// of a nameless file (Options.TableDir), of which little is in memory at any time.
//
// It never writes to the disk and never talks to the vault itself.
package scan
