// Package home holds a disk to be overwritten: it keeps everybody else out, reads sums of
// blocks past caches, writes, zeros and syncs. It refuses what is mounted, swapped to or
// otherwise in use. It never decides what is written; that is a master target's, in this
// process or at the other end of the bus.
package home
