// Package libvirt describes a machine for those who run libvirt: the XML of a domain, to be
// given to virsh define, with the disks where they are and the hardware that package qemu
// would give the machine.
//
// It owns that text. It never talks to libvirt, and starts nothing. The network is
// libvirt's own "default" unless a bridge is named; no address and no UUID is set, libvirt
// makes them.
package libvirt
