// Package enrol decides who may protect a machine: it makes one-time tokens, lets
// agents in that bring one, and takes the right away again.
//
// State is in two buckets of the bus, so it outlives control and is shared by all
// of its instances:
//
//	LEEWARD_TOKENS  <id>       the token's machine, end, SHA-256 of its secret, whether it was used
//	LEEWARD_AGENTS  <machine>  the public key of its agent, since when, whether it is revoked
//
// A token's text is lw_<id>_<secret>; only who made it and the machine ever see the
// secret. Using it is a compare-and-set on its entry, so two agents cannot both.
// A machine has one agent: enrolling again revokes the one before.
//
// The keys that sign are not here: an Issuer (package trust) has them.
package enrol
