// Package trust says who may do what on the bus, and holds the keys that prove it.
//
// NATS runs in operator mode. An operator's key signs the accounts, keys of the
// account LEEWARD sign its users, one key for each role. What a role may do stands
// in the account's token, beside the role's key, so it holds for users that exist
// already; a user's own token says only who it is. Who is refused for good stands
// in the account's token too. A server needs nothing but the operator's token and
// the accounts' to judge everybody, so it does not matter to an agent whether any
// other part of Leeward is up.
//
//	DIR/operator.nk, operator.jwt   the root: signs accounts
//	DIR/account.nk, system.nk       what the two accounts are called
//	DIR/sign/<role>.nk              signs the users of a role
//	DIR/users/<role>.creds          a ready user of each role, except machine
//
// Whoever can read DIR can do everything; it is 0700 and never leaves the
// appliance, or the host of control.
//
// Permit is the table of rights and the one place to change them; docs/ops/security.md
// shows it to people and a test compares the two with a running server.
//
// This package makes tokens and hands the accounts' to servers. It does not decide
// who gets one: package control/enrol does.
package trust
