// Package causal shows what a group's points promise. Two PostgreSQL servers run on
// two protected machines. A client commits a row on A and, having seen that, the same
// row on B. Whatever point of the group is restored, B must have no row that A has
// not. The same with points that each machine cut alone must break that, or the test
// could not fail.
package causal
