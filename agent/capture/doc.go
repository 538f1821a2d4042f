// Package capture defines how the agent learns which blocks of a disk changed.
//
// It owns the contract Source and the type Set, a set of block numbers. Drivers
// live below: trace follows a disk's writes through the kernel's own event ring,
// scan finds changes by hashing the whole disk. Package capturetest has a source
// in memory for tests and the conformance kit that every driver passes.
//
// The one order that is right, whatever the driver: Take, then read the blocks of
// the Set. A write that lands between the two is in a later Take, so it is read
// again. Reading first and taking then would forget it.
//
// It never reads a disk's contents for its caller and never decides when to cut.
package capture
