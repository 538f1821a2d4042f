// Package history keeps a few numbers of every machine over the last day, in memory of a
// fixed size: 360 samples 10 seconds apart, then 288 that are 5 minutes apart. A machine
// takes 16 bytes a sample, 10 KiB in all; of more than MaxMachines the rest is not kept.
//
// A coarse sample is the worst of what it stands for: the highest RPO and backlog, the
// mean churn. It owns no clock and decides nothing.
package history
