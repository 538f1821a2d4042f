// Package overlay lets a machine write to a recovery point without touching it: a
// copy-on-write disk over a read-only base.
//
// The disk is cut into pages of 4 KiB. Each page is in one of four states, two bits
// each:
//
//	0 hole     the base holds no data here; reads as zeros
//	1 base     reads from the base
//	2 written  reads from the data file, where the whole page is
//	3 zeroed   was zeroed or discarded; reads as zeros
//
// The data file is sparse and has the size of the disk; a page is at its own place.
// Writing part of a page first fills the page from the base; zeroing or discarding
// whole pages changes their state only. The states of 64 MiB of disk take 4 KiB of
// memory, and nothing where all pages are holes or all are base.
//
// # What survives
//
// What was written before a Flush that returned nil survives the death of the process
// and a failure of power: Open finds it again. What was written after it may be there
// or not, sector by sector, as on any disk with a cache.
//
// Beside the data file NAME lies the map NAME.map, made at the first Flush that needs
// it. Numbers are little-endian.
//
//	0     8   "LWOVMAP1"
//	8     4   page size, 4096
//	12    4   1 if a digest follows, else 0
//	16    8   size of the disk in bytes
//	24    32  digest of the base, which must be the same when the overlay is opened
//	56    …   zeros
//	4064  32  SHA-256 of the 4064 bytes before
//	4096      the leaves: 4096 bytes for each 16384 pages of the disk, the last one too
//
// A leaf is 512 words of 64 bits. The page p of a leaf has bits 2(p%32) and 2(p%32)+1
// of word p/32: 0 if it was not changed, 2 if written, 3 if zeroed; 1 is damage, as is
// anything but 0 behind the end of the disk. What is a hole is for the base to say.
//
// Flush puts the data onto stable storage and only then the leaves that changed, in
// place: whatever the map says is written is there. A leaf that was torn does no harm:
// each of its words is the old one or the new one, and both were true of what is in
// the data file. When the disk refuses a Flush, all that follow fail too: nobody knows
// what it has kept.
//
// # What changed
//
// Changed tells what the machine changed since the base; Take, after Track, what it
// changed since the Take before.
//
// The package never writes to the base and never shows it to the network. It does not
// keep two processes from opening one overlay: who keeps the machine does.
package overlay
