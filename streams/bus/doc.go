// Package bus connects a part of Leeward to NATS and keeps the leases that say
// which agent instance protects a disk.
//
// Connect reads the same context files as the nats CLI, fails fast with one clear
// line when the server cannot be reached the first time, and afterwards
// reconnects for ever. It refuses to speak in the clear with anything but this
// machine. Replies arrive below an inbox of the user's own, so that one user
// cannot listen to the answers of another.
//
// A Lease is a key in the bucket streams.Leases, changed by compare-and-set and
// renewed while its holder lives. It keeps a second agent from starting on a
// disk by mistake. It is no fence: a holder that was cut off from the bus finds
// out late. What fences is the chain of the disk (package wire) and put-if-absent
// in the vault.
//
// The lease of a role (AcquireRole) is the same for what only one of several
// processes may do, as the active control does. It is lost, too, when it could not
// be renewed for as long as it lives.
//
// A connection whose other end vanished without a word, as in a network that drops
// everything, counts as dead after twenty to thirty seconds: pings, keep-alives and a
// bound on unacknowledged bytes see to it.
//
// A Follower reads a stream that needs no acknowledgements, from the beginning or from
// what is newest of each subject, and goes on by another consumer when one is silent or
// behind.
//
// This package knows nothing of what the messages mean and never starts a server.
package bus
