// Package capturetest holds what tests of capture need: Fake, a disk in memory
// with a source that follows it, and Run, the conformance kit that every driver
// passes.
//
// It is not linked into any program.
package capturetest
