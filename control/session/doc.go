// Package session lets people into the console: it keeps the console's users, makes
// one-time codes for those who have a key of the bus already, and the sessions of both.
//
//	LEEWARD_LOGINS  code.<sha256>     a one-time code, good for minutes
//	                session.<sha256>  somebody who is signed in, for at most half a day
//	LEEWARD_USERS   <name>            a user: role, and Argon2id of the password
//
// What opens a door is stored by its hash only: who reads the buckets learns who is
// signed in, and cannot take their place. A session of a user ends when the user is
// changed or removed. Wrong passwords make the next try wait.
//
// A session says who somebody is and in which role of the bus (package trust) they act.
// This package gives nobody a right: the console asks control over a connection of that
// role, and the bus judges it.
package session
