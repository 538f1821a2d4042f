// Package health turns what is known of a machine into a level, and into issues
// that each name a cause and a remedy. It is a pure function of its input: no
// clock, no I/O, no memory between two calls.
package health
