// Package trace follows the writes of a block device without a kernel module.
//
// # How
//
// The kernel has an event, block_rq_complete, that it raises for every request
// that a block device has completed. The driver makes a private tracing instance
// (a ring buffer per CPU that nobody else uses), filters the event for one disk,
// and reads the rings as binary pages. Each event marks blocks in a capture.Set.
// BPF programs on the same event were tried and lose events silently when
// completions nest in interrupts; the ring has room for every context.
//
// # What holds
//
// Every request that the block layer completed with data written, zeroed or
// discarded is in a Take that begins after its completion, whoever wrote it:
// filesystems, mmap, O_DIRECT, swap, raw volumes, partitions. An event that the
// ring had no room for, a page that says that events are missing, tracing switched
// off by somebody else, or a sum of sectors that differs from the kernel's own
// counters while the disk is at rest is reported as capture.ErrLost.
//
// # What does not
//
// Not seen are: commands that a program sends to the drive past the block layer
// (SG_IO, nvme passthrough), writes of other machines to a shared disk, writes to
// the file behind a loop device, and everything written while no Source runs.
// Devices that pass requests on without making any of their own (device mapper,
// md, zram, pmem, nvme multipath) are refused with capture.ErrUnsupported:
// protect the disks below them. So are zoned devices.
//
// It never reads the disk and never changes the machine's own tracing.
package trace
