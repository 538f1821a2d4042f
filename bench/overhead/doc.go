// Package overhead measures what the agent costs the machine that it protects.
//
// It owns two trials: writes of fio with tracking switched on and off in alternating
// pairs, so that what else the machine does hits both; and how long pgbench stands
// still at each point, beside the policy's bound.
//
// It proves nothing about contents: that is bench/proof.
package overhead
