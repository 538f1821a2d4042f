// Package drill says what a drill is: a plan that is carried out as a test by itself,
// again and again, and a signed report of each. It decides when one is due, what a
// report says, and whether a report is what a control has signed.
//
// A report is for people who were not there: an auditor reads which machines came up
// from which points, how old those were, how long it took and what proved it, and checks
// with nothing but the file and the fingerprint of a key that nobody has changed it.
//
// It never starts anything, reads no clock and writes no file: control does (drills.go).
package drill
