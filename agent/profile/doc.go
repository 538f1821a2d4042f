// Package profile tells what replicating disks would take, before anything is
// replicated.
//
// It owns a recording of how much changes in each interval (Record: a capture source
// is followed, a sample of what changed is read and compressed), and what follows from
// it (Sum: bandwidth, vault space, and the RPO to expect at several link speeds). Sum
// and Draw are functions of values.
//
// # What holds
//
// An interval counts each changed block once, as the agent would send it. The RPO is
// from above: behind a slow link the agent's dirty map sends a block that was
// overwritten only once, which is not counted in its favour. What a day changes is
// what was recorded, scaled: record a working day to know a working day.
//
// It sends nothing, writes nothing, and never changes a disk.
package profile
