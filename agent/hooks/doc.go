// Package hooks tells applications when a recovery point is cut.
//
// It owns what is run before and after the cut, the time that it may take, the
// scripts for PostgreSQL and MariaDB that come with the agent, and the keeper: a
// process of its own that runs the hooks, so that what was told to wait is told to
// go on even if the agent dies.
//
// # What a hook is
//
// A program that is called twice: with the argument "pre" before the cut and with
// "post" after it. Exit code 0 means done; anything else means that the point is not
// application-consistent, and what the program wrote says why. In its environment:
//
//	LEEWARD_MACHINE  name of the machine
//	LEEWARD_SESSION  one word, the same for pre and post of one cut
//	LEEWARD_DIR      empty directory for the session, on the agent's state directory
//	LEEWARD_HOLD     whole seconds after which post is called whatever happens
//
// The rest of the environment is the agent's own, without its LEEWARD settings.
//
// # What holds
//
// The post of every hook whose pre was started is run, in reverse order: also when a
// pre failed or hung, when the agent is gone, and when the hold time is over. Each
// run has a limit; a program that exceeds it is asked to end, then killed with all
// its group. End tells whether everything held until it was called: only then was
// the cut made while the applications were ready for it.
//
// It never freezes a filesystem and never decides when to cut.
package hooks
