// Package optimize turns a run of links of one disk's chain into the batch that
// the vault writes as one segment, and decides where one run ends and the next
// begins. It is pure: no I/O, no clock, no goroutines of its own.
//
// What happens to the links of a run:
//
//   - The last writer wins: a block that a later link of the same run writes again
//     is not mapped from the earlier frame. A frame nothing is mapped from any more
//     is dropped. Links in between can't be a consistent state (a cut ends a run),
//     so nobody can ever ask for what was overwritten.
//   - Zeros and discards of the whole run are gathered, joined where they touch,
//     and recorded without data.
//   - A frame that came compressed is kept as it came, even if some of its blocks
//     are dead: unpacking costs more than the bytes. A frame that came raw loses its
//     dead blocks and is compressed if that saves at least 5 %.
//
// A run ends, see Run.Full, Run.Due and Ends:
//
//	rule      default   why
//	cut       always    a recovery point exists only when its cut is in the vault: RPO
//	open      alone     the agent may not go on before it knows the epoch's base
//	bytes     16 MiB    a segment worth a put; bounds memory (thrice this a disk, and as much
//	                    again in the server's caches) and what one retry repeats
//	age       1 s       how long an agent must remember what it sent, and how long
//	                    JetStream must keep it, when a disk writes little; points do
//	                    not wait for it. At most 86 400 segments a disk and day, and
//	                    only while the disk writes all the time
//	links,    2048,     bounds what is in flight of the 4096 messages that a
//	extents   65536     partition may have unacknowledged, and the work of one plan
//
// While the vault is busy with the batch before, age does not end a run: a slow
// store sees fewer and larger segments, not a queue of small ones.
package optimize
