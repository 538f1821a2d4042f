// Package qemu brings machines up on this host, in QEMU, straight from their recovery
// points: nothing is copied first.
//
// Each disk is exported over NBD from an overlay (packages nbd and overlay), so the
// guest reads what it needs from the point and its writes stay in the run's
// directory. The guest's network is its own: it gets an address by DHCP and reaches
// nothing, neither the host nor the world; a probe reaches it through one forwarded
// port on the loopback interface. That wants a guest that takes its address from
// DHCP: one with a fixed address cannot be probed by port, only by its serial line.
//
// A machine that was failed over may instead be attached to a bridge of this host, among
// the machines of the network that the bridge is part of; then it has the address that this
// network gives it, and who wants one of its ports probed says that address.
//
// The hardware is what every operating system has drivers for, AHCI and e1000e, so
// that a physical machine comes up unchanged. "virtio" is faster, for machines that
// have its drivers in their initramfs.
//
// QEMU is run by this process, as the same user and in its seccomp sandbox, and dies
// with it. The package owns that process, its monitor (QMP), its serial line, and the
// files of a run in the directory it was given:
//
//	disk0.overlay  what the guest wrote to its first disk
//	nbd.sock       the disks, while the guest runs
//	serial.log     what the guest said, at most 16 MiB of it
//	screen.png     what it showed
//	qemu.log       what QEMU said
//	vars.fd        UEFI variables
//
// It never judges by the picture, never lets a guest see the recovery point but
// through an overlay, and never changes the host's network but for the guest's port of a
// bridge, which goes with the guest.
package qemu
