// Package disk opens the disks of a machine for reading and tells what lives on
// them.
//
// It owns: the rules of reading (whole disks only, O_DIRECT on block devices
// because the page cache of a device is not coherent with the filesystem mounted
// on it, the last block padded with zeros), a reader of many ranges with a deep
// queue in bounded memory, the identity of a disk, the list of filesystems and
// swap areas on it, and the lock that keeps two agents of one host off one disk.
//
// It never writes to a disk, never freezes anything (that is agent/quiesce) and
// knows nothing of changes (that is agent/capture).
//
// Images: a regular file can be opened like a disk. It is read through the page
// cache, which is what its writers use too.
package disk
