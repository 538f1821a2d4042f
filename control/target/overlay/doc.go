// Package overlay lets a machine write to a recovery point without touching it: a
// copy-on-write disk over a read-only base.
//
// The disk is cut into pages of 4 KiB. Each page is in one of four states, two bits
// each:
//
//	hole     the base holds no data here; reads as zeros
//	base     reads from the base
//	written  reads from the data file, where the whole page is
//	zeroed   was zeroed or discarded; reads as zeros
//
// The data file is sparse and has the size of the disk; a page is at its own place.
// Writing part of a page first fills the page from the base; zeroing or discarding
// whole pages changes their state only. The states of 64 MiB of disk take 4 KiB of
// memory, and nothing where all pages are holes or all are base.
//
// The states live in memory and Flush writes nothing: an overlay is as lasting as the
// process, which is what a test run needs. Changed tells what the machine changed.
//
// The package never writes to the base and never shows it to the network.
package overlay
