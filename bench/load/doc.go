// Package load writes to a mounted filesystem the way that is hardest for whoever
// follows its changes: fio writing at random, buffered, direct, synchronous and
// through mapped memory, and beside it files that come, grow, get holes, are cut
// short, renamed and deleted, with fstrim now and then; and PostgreSQL under pgbench. And it writes a ledger:
// numbered records, each on the disk before the next, with the time at which the
// kernel said so.
//
// It writes only below the directory it is given, and never reads to verify.
package load
