// Package fixup changes a machine's disks so that the machine boots on hardware it has
// never seen: it appends drivers to initramfs archives, and edits fstab, the network's
// configuration and the boot loader's. It works on an overlay, never on a recovery point.
//
// Nobody's host mounts the disks. They are given to a helper: a virtual machine with a
// kernel of the host, and a program of ours, alone in its initramfs, that calls Main as the
// first process. The file systems of a machine are parsed there and nowhere else.
//
// What is there is looked at first, and only what is missing is changed. Each change is
// written down before it is made, in the machine itself:
//
//	/var/lib/leeward/pre-failover.json
//
// with what was there before beside it, as NAME.pre-failover (in folders where every name
// is read, pre-failover.NAME). Of an initramfs only its length is noted: drivers are
// appended to it, so undoing cuts them off again and /boot needs no room for a copy. Fixing
// twice is fixing once, and what was begun and broke off is undone before it is done again.
// Undo takes back every change whose file is as it was left; a file that the machine has
// changed since stays, and is named.
//
// # What goes between host and helper
//
// The host puts a Spec, as JSON, into the helper's initramfs as /spec.json. The helper
// writes one line onto its first serial port, Prefix and a Report as JSON, when every file
// system is unmounted, and powers off. No line: nothing may be believed to be done.
//
// Logical volumes of LVM that are linear or striped, and RAID that software makes, are set
// up in the helper by its own means (ADR 0042): what they say of themselves is read, its
// checksums are verified, and the kernel is told. What is not whole, or of another kind, is
// left alone and named.
//
// What cannot be fixed without the machine running is said (Report.Cannot) and nothing is
// changed then: encrypted disks, unified kernel images, kernels without the driver, an
// initramfs of unknown make.
//
// The package owns the parsers, the changes, the helper's program and its initramfs. It
// starts no virtual machine: a target does (package qemu). It executes nothing of the
// machine, and never asks for anything over a network.
package fixup
