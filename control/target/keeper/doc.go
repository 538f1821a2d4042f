// Package keeper lets a machine that was brought up outlive the process that asked for
// it. A keeper is a process of its own, in a session of its own, that holds one
// machine: its target, its disks, its monitor. Whoever started it can end, also by
// kill -9, and another process takes the machine over by its directory.
//
// What a keeper leaves in that directory, beside what the machine's target leaves:
//
//	keeper.lock  locked by the keeper as long as it lives, and by nobody after it
//	keeper.sock  where it answers, one question a connection
//	keeper.json  its process id and when that process began; at its end, what failed
//	keeper.log   what it logged
//
// The lock says whether there is a keeper: it is taken by the one who starts it and
// inherited, so there is no moment at which a keeper that will come has none, and the
// kernel lets it go when the keeper ends, however. A process id is used only to end a
// keeper that no longer answers, and only if the process began when keeper.json says.
//
// Beside what every target.Running can, a machine may do more (Doer): the way home is such.
//
// The package owns the process and the questions. It never opens a vault: what the
// specification of a machine means is the Opener's to know. A keeper holds no secret on
// disk, and a machine ends with its keeper.
package keeper
