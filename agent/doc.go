// Package agent is what runs on a protected server: it follows the changes of its
// disks, publishes them as chains, and cuts consistent points.
//
// # What happens, in order
//
//	lease     one agent instance holds each disk (streams.Leases)
//	follow    the capture source starts; from here no write goes unseen
//	open      a new epoch; the process server answers with a receipt that says where
//	          the vault stands, which is the base of the epoch
//	compare   the disk is read once and compared with the sums of the base (nothing,
//	          the first time): only what differs is sent
//	round     take what changed meanwhile, read it, send it
//	point     rounds until little is left; freeze; take, read, audit; thaw; send; cut
//
// A change is forgotten only when the vault's receipt covers its link (journal).
// When the process server asks for links again, or the stream lost its tail, a new
// epoch opens and the journal's ranges are compared with the vault: what differs is sent
// again. When nothing certain is known (lost events, a ledger that does not add up, a
// vault that stands before what it had confirmed, a boot) the whole disk is compared,
// with the reason in an event. A restart of the agent is no such case with the trace
// driver: the kernel goes on recording, and the next agent takes over what it recorded
// and what the vault had not confirmed (capture.Keeper), also if the disk has grown:
// then what was added counts as changed.
//
// Disks are added, excluded and resized between two points (SetDisks); the others are
// not touched. One disk's trouble is that disk's alone: one that is replaced, or cannot
// be read, is set aside with a critical event, and the points of the others say that
// they lack it. A disk that comes, or comes back, is copied beside the others and joins
// their points when that is done. Only a disk that belongs to another agent now ends
// all: then this machine is no longer the one to protect.
//
// # Fenced
//
// When control says that the machine is fenced, because a copy of it runs elsewhere or it
// is not to be protected, the agent ends what it is doing, publishes nothing, and says how
// much has changed that the vault does not have. It goes on following the disks. When the
// fence is gone it opens a new epoch. An agent that was not told is refused by the process
// servers.
//
// In a copy of the machine that a failover made, the agent has a name (Config.Instance), and
// it is the other way round: it publishes only while a fence names it, and takes no lease.
//
// # What makes a point true
//
// Every disk: the source was taken, the blocks were read, and a second take found
// that nothing had completed in between, so what was read is the disk at one
// instant. Mounted filesystems are frozen meanwhile, which is what makes this
// succeed under load, and the guard vouches that they stayed frozen until the last
// read. All disks of the machine are cut inside the same freeze.
//
// This package opens no port, links neither a broker nor a cloud SDK, and never
// promises a recovery point: control does, when the vault has it.
package agent
