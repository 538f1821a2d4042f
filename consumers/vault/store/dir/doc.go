// Package dir keeps a vault's objects as files of a directory.
//
// The key is the path. Several processes, also over a network file system with
// proper semantics, may use one directory at once: there is no lock and no state
// beside the files.
//
// # How a Put becomes durable
//
//  1. Write the bytes to a new file in .tmp/ below the root; a large object passes the
//     page cache by where the file system can do that (O_DIRECT).
//  2. fsync that file. Up to here it is staged: any number may be.
//  3. Make the missing directories of the key, outermost first, and fsync the
//     parent of each.
//  4. link(2) the file to its name. This is the one step that takes effect; it
//     fails if the name is taken, so a reader sees a whole object or none and two
//     writers cannot both win.
//  5. Unlink the name in .tmp/, and fsync the directory of the key.
//
// A writer that loses the race fsyncs the directory as well before it says
// ErrExists, because the winner may have died before its own step 5. For the same
// reason Sync makes durable what List shows.
//
// A crash before step 4 leaves a file in .tmp/, which nothing lists; Open removes
// those that are older than a day. All of them lie in one directory, so that Open
// need not walk the vault. That directory must be on the file system of the
// objects: no mount points below the root.
//
// # When the disk is not there
//
// An unmounted disk leaves an empty directory, which must not be taken for an empty
// vault, nor be filled. So every "not found", and every Put and List, makes sure that
// the root is still the directory that was opened; if not, it is store.ErrAway. A
// directory made by Create has a random name in .leeward-store and is known again
// when it comes back.
//
// # Keeping what is young
//
// With Options.Keep, Delete refuses what is younger (store.ErrKept): what an intruder
// with our rights, or a mistaken command, cannot prune before somebody notices. It
// trusts the clock and guards against programs, not against who can write to the disk.
//
// This package never changes or overwrites a file it has linked.
package dir
