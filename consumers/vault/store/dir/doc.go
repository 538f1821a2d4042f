// Package dir keeps a vault's objects as files of a directory.
//
// The key is the path. Several processes, also over a network file system with
// proper semantics, may use one directory at once: there is no lock and no state
// beside the files.
//
// # How a Put becomes durable
//
//  1. Write the bytes to a new file in .tmp/ below the root.
//  2. fsync that file.
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
// This package never changes or overwrites a file it has linked.
package dir
