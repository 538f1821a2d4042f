// Package process is the process server: it pulls the changes of the partitions
// it owns, follows the chain of every disk, commits runs of links to the vault,
// says in a receipt what the vault holds, and only then acknowledges the messages.
//
//	JetStream ─pull─► decode ─► follow ─► run ─► optimize ─► vault.Begin ─► receipt ─► ack
//	            (one handler      (one goroutine a disk)        (worker pool, in order a disk,
//	            a partition)                                     three runs of it at a time)
//
// # What is done with a link
//
// The vault's head, and behind it the links that wait to be committed, say what is
// expected next. follow decides, without I/O:
//
//	the next link                        appended to the run
//	in the vault already                 acknowledged
//	waiting already                      its delivery is acknowledged with the first one
//	first link of a newer epoch (open)   committed at once, alone: the epoch's base is the vault's head
//	open that knows more than the vault  the head is read again, in case somebody else wrote; if it
//	                                     is still behind, refused: receipt with resend, event vault-behind
//	another link at a number in use,
//	or one that does not fit its
//	predecessor                          refused: receipt with resend, event fork
//	older epoch than the head's          refused: receipt with the present head, event fenced
//	link behind a gap                    held for a moment, see below
//	kept out by a fence of the machine   refused: receipt with the reason, event fenced; see below
//	no link of the subject's disk        terminated, event malformed; the chain then shows a gap
//
// # Gaps
//
// Asynchronous publishers may be reordered, and a delivery to a dead client comes
// again only after its acknowledgement wait. So a link behind a gap is held: 2 s, and
// for as long as requests of the partition's owner before this one may still be served,
// 6 s; at most 256 links, 16 MiB or half of what the disk may have waiting, and half of
// the memory for all disks together. What is nearest to the gap is kept, the rest comes
// again later. Then the partition's consumer is reset, at most every 10 s, so that
// everything unacknowledged is delivered again in order, and the vault's head is read
// again, in case somebody else wrote there. Only then the gap is a loss: the receipt asks
// for a resend, and what is left of the epoch is dropped, because the agent sends
// it again in a new one.
//
// # Who may fail, and what happens
//
// Killed between commit and ack: JetStream delivers again, the head shows that the
// vault has it. A run fails while others of its disk are under way: the vault lets none
// behind it in, they are committed again after it. Two servers on one partition: the vault takes each number once, the
// loser reads the head again and goes on behind it. Store failing: the runs stay in
// memory, deliveries are kept alive, the budget fills, pulling stops, JetStream
// fills, agents slow down; nothing is acknowledged. JetStream's state lost: the
// receipts are published again from the vault's heads.
//
// # Sharing the partitions
//
// Process servers on one bus share the 64 partitions without being told how many
// they are. Each says every second on streams.BeatSubject that it lives. The first
// of the living (by instance) writes the table: one value in the bucket
// streams.Shares, changed only by compare-and-set, that gives every partition to a
// server, each as many as the others or one more. Everybody follows the table.
//
//	a server comes   some partitions get a next owner; the owner commits what it has,
//	                 acknowledges, and hands them over in the table
//	a server stops   it commits, acknowledges, and writes itself out of the table
//	a server dies    missed for 4 of our own beats that came back (at once, if it ran
//	                 on this machine and its process is gone), its partitions go to
//	                 the living
//	the bus is away  nobody hears even itself, so nobody counts as dead
//	the table is     it is written anew; a table older than one that was followed
//	lost             before is believed only when it stays
//
// One who lost a partition without knowing is a zombie. JetStream refuses it: the
// owner puts its own group into the partition's consumer, and pulls that name
// another are refused. What it got before, the vault refuses: each link is put if
// absent. So two owners cost repeats, never data, and need no resync.
//
// # Fences
//
// After a failover control writes a fence for the machine into the bucket streams.Fences,
// and every server follows that bucket. A fence names the one instance that may write the
// machine's disks, or none. Links that are not of an epoch which that instance opened are
// refused, whatever their numbers: an agent that comes back opens an epoch that is newer
// than the copy's. What waits already when a fence comes was there before it and is
// committed. A server does not start before it knows the fences, and keeps those it knows
// when the bucket is lost.
//
// # Memory
//
// Config.MemoryBytes bounds the links that wait, over all disks; one disk has at
// most three runs or half of it. On top come the segments that are being written, one
// for each of Config.Workers; what the NATS client has fetched and nobody handled yet:
// 12 MiB for a partition alone, less for each the more of them have a backlog, and at
// least 2.2 MiB (below that it could be smaller than one message, which JetStream answers
// by silence); and the vault's table of sums for each disk that is in use.
//
// This package never decides what a recovery point is, and never changes a link:
// what the agent sent is what the vault gets, or nothing.
package process
