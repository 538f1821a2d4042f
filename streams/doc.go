// Package streams is the map of what flows: subjects, JetStream streams and
// consumers, and their limits. Read it first; it is the public contract for
// anybody who taps the bus with the nats CLI.
//
//	subject                                       stream    who writes        who reads
//	leeward.changes.<partition>.<machine>.<disk>  CHANGES   the disk's agent  the process server that owns the partition
//	leeward.tap.changes.<...>                     -         process servers   taps: the same messages, headers only
//	leeward.markers.<group>                       MARKERS   agents            control, agents of the group
//	leeward.receipts.<machine>.<disk>             RECEIPTS  process servers   the disk's agent, control
//	leeward.events.<machine>.<kind>               EVENTS    everybody         operators
//	leeward.audit.<action>                        AUDIT     control           operators
//	leeward.barrier.<machine>.order               -         control           the machine's agent
//	leeward.barrier.<machine>.report              -         the agent         control
//	leeward.policy.<machine>.set                  -         control           the machine's agent
//	leeward.policy.<machine>.ask                  -         the agent         control
//	leeward.rescue.<name>.order                   -         control           the rescue of that name
//	leeward.rescue.<name>.report                  -         the rescue        control
//	leeward.process.beat                          -         process servers   process servers: who lives
//	leeward.sums.<partition>.<machine>.<disk>     -         agents (request)  process servers (reply)
//
// A partition is two decimal digits, 00 to 63; Partition computes it from the
// disk, so a disk is always in the same one. CHANGES is a work queue: a message
// leaves it when the vault holds it. When CHANGES is full, publishing fails and
// the agent slows down; nothing is dropped.
//
// A pool of process servers at another site has a stream CHANGES-<pool>, partitions
// <pool>-00 to <pool>-63 and beats on leeward.process.beat.<pool>: see Pool.
//
// The messages themselves are specified in package wire. This package never
// imports another package of Leeward.
package streams
