// Package hydrate brings the disks of a machine that runs from a vault to where it runs,
// behind its back: what the machine touched first comes first. When all of a disk is there,
// and is what the recovery point promises, the vault is not read any more. Nothing is
// switched for that, and the machine does not notice: each read goes to the local copy if it
// has the bytes, else to the vault.
//
// A Copy lies between a recovery point and the overlay that the machine writes to (package
// overlay), and is itself an overlay that only copies are written to: the file NAME, sparse,
// and NAME.map, which says what is in it. What was copied and flushed survives the death of
// the process; the next one goes on from there. NAME.whole is there once the copy was read
// back and found to be what the point promises.
//
// Copying gives way: to the machine's own reads, and to its room; it stands still when less
// than a reserve is free. Errors of the store are waited out. The status tells why it stands
// still.
//
// The package never writes to the vault, and never to what the machine has written.
package hydrate
