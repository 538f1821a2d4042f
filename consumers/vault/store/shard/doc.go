// Package shard keeps a vault's objects in k+m stores, so that any m of them may be
// lost or damaged. The stores may be disks, accounts, regions, or a mixture.
//
// # What is where
//
// An object is cut into k chunks of equal length, the last ones perhaps shorter;
// Reed-Solomon adds m parity chunks. Chunk i is shard i and goes to the store that is
// member i, under the object's own key. A shard is a header and blocks:
//
//	 0  8  "LWSHARD1"                 40 16  id of the set
//	 8  1  kind: 1 shard, 2 blocker,  56  8  time of the put, ns since 1970
//	       3 identity                 64 32  SHA-256 of the whole object
//	 9  1  k                          96 16  zero
//	10  1  m                         112 16  SHA-256 of bytes 0..111, its first half
//	11  1  index of the shard
//	12  4  bytes of a block: 65536    then for every 65536 bytes of the chunk, and the rest:
//	16  8  length of the object        0 16  SHA-256, first half, of generation, index (1),
//	24 16  generation: a random                number of the block (4) and its bytes
//	       id of the put              16  …  the bytes
//
// Numbers are big-endian. A reader refuses a kind, a block size or reserved bytes that
// it does not know. The sums find what rots; against forgers the vault seals what it
// puts. Since blocks bear their generation, shards of two puts never mix. What is not
// below "shard-set/" is an object's; there, "shard-set/id" in each member says which it
// is (a header of kind 3), and "shard-set/x/KEY/" holds records of contested keys.
//
// A range is read from the data shards that have it, and verified; if one of them does
// not answer or has rotted, the range is computed from any k others.
//
// # Who wins a key
//
// Of any number of writers exactly one wins, with up to m stores away and whoever dies
// on the way. The place of a key in a member is taken once (the member's own Put sees
// to that), and is a vote for the generation that takes it. A put takes all n = k+m
// places at once and has won with F of them. That is one round, and the usual end.
//
// Without F places (writers race, or stores are away) there are ballots, as in Paxos
// with shared disks. Records are empty objects whose names say all: p-BALLOT is a
// promise, v-BALLOT-GEN a vote, c-GEN says who has won, and s-GEN is a shard whose place
// is taken. A ballot
//
//  1. writes its promise, puts a blocker into a place that is free, and then reads what
//     there is, at a majority Q; a higher promise ends it;
//  2. proposes the generation of the highest vote it saw; without a vote, one that may
//     have F places for all it saw; else one that has k; else its own, whose shards it
//     first puts everywhere;
//  3. writes its vote and reads again; it has won if Q members show no higher promise;
//  4. writes the record of the winner to Q members.
//
// k > m and 2F + Q > 2n make that safe: see docs/adr/0006. For 4+2: n 6, Q 4, F 5.
//
// # What a put promises
//
// A put has returned when F shards are durable, or with m stores away k of them and the
// record. Until Repair has made the missing shards, fewer than m further stores may be
// lost. Sync settles what a writer that died left undecided; List and Get may show it
// before, if k shards of it are there.
//
// This package never writes to fewer stores than it needs to be sure, and never says
// that an object does not exist when too few stores answer to know.
package shard
