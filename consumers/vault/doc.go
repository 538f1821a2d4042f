// Package vault is the repository: it keeps the history of disks as immutable
// objects in a store, gives back any disk at any recovery point, and needs nothing
// but the store and the key to do so.
//
//	process server ── DiskWriter.Begin ───► segments ──┐
//	control ────────── Vault.PutPoint ────► points ────┤ store (dir, …)
//	restore, boot ◄─── Reader ◄────────────────────────┤
//	operator ◄── Check, Repair, Inspect ◄──────────────┤
//	operator ──────── Maintain, keys, pins ────────────┘
//
// # History
//
// A disk's history is a chain of links in epochs. A segment holds consecutive links
// of one epoch and is named by the first of them; it is created only if that name
// is free, so of two writers who both have the same link exactly one gets it in,
// and the other finds out before it says that anything is safe.
//
//	epoch 1   1──9  10──14  15──20  21──27      (27 written by a zombie)
//	                          │
//	epoch 3                   └─ 1──3  4──12    base 1/20
//
// An epoch forks from its base, a boundary between segments of the epoch before.
// The disk at position (e, n) is the disk at e's base with the segments of e up to
// n over it. What a writer of an older epoch still adds behind a base harms nobody:
// readers of the newer epoch take that epoch's segments only up to the base, and as
// the base is a boundary and names are taken once, no later segment can reach
// across it. So nothing has to be locked to fence a writer, and the points of an
// abandoned branch stay readable.
//
// # Tidying
//
// Maintain removes the points that nothing keeps, folds the history that no point
// shows any more, deletes what is not needed then, and makes maps, which say for many
// segments at once where the blocks are. Whoever writes disks needs no right to
// delete. Maps repeat what segments say: with them, opening a disk at a position costs
// a few reads whatever its history, and memory that does not grow with the disk;
// without them nothing is lost. The record on maps in pages says more.
//
// Repair puts right what follows from what is left, and proves by restoring to nowhere
// which points are lost.
//
// # What is promised
//
//   - What Commit or Wait has returned survives a power failure (see package store).
//   - A segment is there only when all before it are, also while several are written.
//   - Every byte is authenticated and bound to its place; nothing that fails is
//     ever returned. It is an ErrDamaged naming the object.
//   - Each segment records the Digest of the whole disk after it. Restore verifies
//     it; PutPoint refuses a point whose digests the vault does not hold.
//
// The bytes are specified in internal/format, the seals in internal/seal.
//
// This package knows no streams and no machines; it imports nothing of ours.
package vault
