// Package storetest holds what tests of stores and of their users share: Run, the
// conformance kit that every store passes,
// and two stores that fail when they are told to: Mem, in memory, and Faulty, in front
// of another.
//
// It is never part of a program.
package storetest
