// Package points decides which recovery points exist. It folds the markers that
// agents publish, the receipts that process servers publish and what the vault
// answers about single cuts into three decisions: ask the vault, list the point,
// abandon the marker.
//
// A point is complete when the vault itself has confirmed the cut of every disk
// of every member. A receipt is only a hint that it is worth asking. A marker is
// abandoned when the vault, asked after a receipt said the disk is at or past the
// cut, does not hold it: no later message can bring it back, because a newer epoch
// fences the older one.
//
// The fold may be fed the same message twice, or messages in any order: what it
// decides in the end is the same. It does no I/O, keeps no clock and starts
// nothing; package control owns the streams and the vault around it.
package points
