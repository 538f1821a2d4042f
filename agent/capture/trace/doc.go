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
// A disk that is made smaller and grown back while no agent runs looks as it did where the
// kernel's log left that out (it writes ten such lines in five seconds) and on kernels that
// make events only of lines that go to a console.
// Devices that pass requests on without making any of their own (device mapper,
// md, zram, pmem, nvme multipath) are refused with capture.ErrUnsupported:
// protect the disks below them. So are zoned devices.
//
// # Joined discards
//
// A drive that takes several ranges in one discard (queue/max_discard_segments) gets
// discards of different places joined into one request, of which the event names the first
// place only. On such a disk block_bio_queue is followed too, for discards: it names each
// place when it is handed to the block layer. What was handed over is in every Take until
// the sectors completed are as many as those handed over, at one moment: then nothing is
// under way. More completed than handed over is a loss. The event has the number of the
// partition, and sectors of the whole disk. Below a linear md or bcache, which pass on the
// bio that they were given, it is not raised: there only first places are seen, and
// Guarantee says so.
//
// # Another size
//
// What is cut off a disk that is made smaller comes back as something else when it grows,
// and no write tells. The kernel's log says both sizes, and its lines are events
// (printk:console) that go into the same ring: everything between two sizes is marked. As
// the log leaves lines out when there are many, the driver also counts what device managers
// are told (netlink): more of that than of lines is a loss.
//
// # Asleep
//
// A machine that hibernates writes its memory to a swap area, and wakes up with rings and
// counters that know nothing of that. So the clock that goes on while a machine is suspended
// is held against the one that does not, at each Take and when a record is taken over:
// having slept is a loss.
//
// # When the agent is down
//
// With Options.Keep the tracing instance outlives the process, however it ends, and
// the kernel goes on recording. The next source takes it over from a kept record: a
// file that is mapped into memory, so that a store is kept even if SIGKILL follows.
// A page of the ring is read into the file (the inbox), its blocks are marked in a
// map in the file, then its sums are added by a store that either happened or did
// not. The kernel counts how many events of each ring were read; the record counts
// how many are in its map: if the two differ, or an event found no room, or the
// instance, the disk, its size, the filter or the boot is not the same, nothing is
// taken over, with the reason, and the disk is compared as a whole.
//
// One process works on a record: it holds a lock on the file, checked by inode, until
// the instance is gone or left. Another disk at the same number is disk.ErrReplaced.
//
// The file (words of 8 bytes in the machine's order: no other machine reads it):
//
//	0     magic, phase (0; ring<<2|1 while the inbox is filled; ring<<2|2 while sums are
//	      added), redo: events, sectors, discarded; sectors, discarded; ledger low, high;
//	      mark in force (0 none, 1, 2); two marks of epoch and number; first and last
//	      epoch of the unbroken run; ledger of discards low, high; sectors of discards
//	      handed over: redo, sum, and what was completed of older ones; nanoseconds that
//	      the machine had been suspended when recording began
//	512   head: JSON, filled up with zeros (type head)
//	4096  inbox, one ring page; then for each ring: events read, losses to start from;
//	      then two maps, a bit for head.granule blocks of 4096 bytes, at most 4 MiB each
//
// The maps hold what the vault lacks against the mark. When all that was taken is in
// the chain up to a link (Seal), marking goes on in the other map, and the first is
// cleared when the vault has confirmed that link.
//
// It never reads the disk and never changes the machine's own tracing.
package trace
