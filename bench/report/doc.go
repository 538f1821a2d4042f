// Package report turns samples into medians and goals into verdicts, prints them as
// tables for people and keeps them as JSON for machines.
//
// It measures nothing, and it invents nothing: a figure without samples says why.
package report
