// Package sums has the sums of blocks: the first 16 bytes of the SHA-256 of a block, or
// zeros for a block of zeros. Agents make them, the vault keeps them and compares what
// comes out with them; both count two blocks at once where the CPU can.
//
// This package knows nothing of disks, and keeps nothing.
package sums
