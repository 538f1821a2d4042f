// Package push installs, upgrades and removes agents on other hosts over SSH.
//
// # What it does on a host
//
// It signs in with a key, an SSH agent or a password, to a host whose key is known;
// becomes root by sudo where it is not; looks before it touches (the system, the
// architecture, systemd, room, what is installed); and then
//
//	install    sends the agent's binary by SFTP, compares its SHA-256 there, puts it and
//	           the unit in their places, has `leeward-agent enrol` use a one-time token,
//	           writes what to protect, starts the unit, and waits for the first heartbeat
//	upgrade    puts another binary and unit in their places and starts it again; if it does
//	           not stay up, the one before comes back
//	uninstall  stops it, has the kernel forget what it recorded, and removes every file
//
// Its places are /usr/local/bin/leeward-agent and /etc/systemd/system: those of a
// package stay the package manager's, and a host with the package is refused.
//
// # What it never does
//
// No secret is in an argument, a log or a file of the host: passwords and tokens go
// through standard input. A host key is never taken on trust. It does not know what
// the server does: who makes tokens and knows heartbeats is given to it.
package push
