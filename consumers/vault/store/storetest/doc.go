// Package storetest holds what tests of stores and of their users share: Run, the
// conformance kit that every store passes, and Mem, a store in memory that fails when
// it is told to.
//
// It is never part of a program.
package storetest
