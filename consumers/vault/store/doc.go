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
// Where an object's bytes can be made durable before its name is there (Stager), several
// are written at the same time and appear in the order that their writer chooses.
//
// A place that cannot be reached answers ErrAway. It never says that an object is not
// there when it cannot know.
//
// Two wrappers belong to the contract. Retry repeats what failed for a while, and
// tells a put of its own that took effect from somebody else's. AppendOnly takes the
// right to delete away: what a process server gets.
//
// This package never caches, and looks into an object only to tell whose it is.
package store
