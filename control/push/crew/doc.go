// Package crew goes to hosts for people: it installs, upgrades and removes agents on
// several at a time (package push), and remembers how each got on.
//
// A round is one such visit. Its secrets, a password or a private key, are in memory while
// the round runs and are overwritten when it ends; they are never in what a round tells, in
// a log or in a file. Which key a host shows must have been accepted by whoever begins the
// round, for that host alone. Rounds are forgotten when the process ends, the oldest before
// that: what lasts is in the audit trail and on the hosts.
//
// Server is control as package push needs it. The package decides nothing about who may do
// this: it acts with the rights of the api.Client that it is given.
package crew
