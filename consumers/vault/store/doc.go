// Package store is the contract between the vault and the place its objects are
// kept: a directory, a cloud container, several of them.
//
// Objects are small files that never change: put once, read whole or in ranges,
// listed by key, sooner or later deleted. A key is a path of elements divided by
// '/'. An element has 1 to 200 letters, digits, '-', '_' and '.', and does not
// start with '.': what starts with a dot belongs to the store itself and is never
// listed.
//
// What the vault builds on, and storetest checks:
//
//   - Put is atomic: an object is there whole or not at all, whatever fails.
//   - Put never replaces: of any number of writers of one key exactly one wins.
//   - When Put returns nil, or ErrExists, the object survives a power failure.
//   - A failed Put may still have happened. Who needs to know looks.
//   - Get and List see an object as soon as Put has returned to anybody.
//
// This package never retries, caches or looks into an object.
package store
