// Package target is the contract between failover and the places where machines come
// up again: what a machine to bring up is, what a place must be able to do with it,
// and what must be seen before it counts as alive.
//
// It owns the words (Disk, Machine, Probe, Result, Target, Running) and the checks
// that hold everywhere. It never starts anything: qemu brings machines up on this
// host, disk writes them to files and devices, targettest is the kit all pass.
//
// A Disk is read-only by its type. A target that runs a machine puts its writes
// elsewhere (package overlay); nothing that happens to a machine that was brought up
// can reach the recovery point.
package target
