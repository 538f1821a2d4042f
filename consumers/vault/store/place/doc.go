// Package place opens the store that a URL names:
//
//	/srv/vault                        a directory
//	dir:///srv/vault?keep=168h        a directory; nothing younger than a week is deleted
//	azure://account/container         see package azure
//	shard:4+2:URL,URL,URL,URL,URL,URL six stores that together are one; see package shard
//
// The stores of a set may be of any kind but sets, and stand in any order once the set
// is made: each knows which shard it is. A store of a set that is away when the set is
// opened is looked for again; it never keeps the set from opening.
//
// No URL holds a secret, and no error of this package shows one.
package place
