// Package boot measures how long a machine takes to its first serial line, and to its proof
// of life, from recovery points in the vault, beside the same image from a raw file that
// QEMU opens itself: the same QEMU, the same command line but for the disk, in turns or both
// at the same time.
//
// It owns the comparison. It never judges what a machine says beyond the proof that it
// booted from the point that was meant.
package boot
