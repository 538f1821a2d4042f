// Package rescue lets a master target write disks of this machine, which was booted from a
// live system. It holds the disks that an operator named here and does what it is told:
// compare, write, zero, sync (see package streams/rescue). It refuses orders for anything
// else, and of anybody but the last master target that said hello.
//
// It has no key of the vault and keeps nothing. What is written is remembered where the
// master target is, by what was synced: after a failure of power a rescue that is started
// anew goes on with that.
package rescue
