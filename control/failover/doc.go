// Package failover brings machines up from recovery points and takes them away
// again. It owns the choice of a point (Select), the states of a job (Step), and
// the engine that carries jobs out: open the disks in the vault, start them on a
// target, wait for proof of life, keep the evidence, clean up.
//
// Every job is a directory below the engine's: job.json, replaced atomically at
// each change, and run/ with everything the target leaves. Cleaning up removes the
// directory and leaves one line in history.jsonl. A machine in QEMU is kept by a process
// of its own (Keeper, KeepMachine), so it outlives a crash of the one that started it: the
// next engine takes the job over and goes on with it. A job whose machine is gone is
// interrupted, and cleaning up removes the rest; one that was failed over is started again
// from what it had put on its disks. A stop in good order ends the machines of
// test failovers, and leaves those that were failed over to their keepers.
//
// A machine in Azure (target.Remote) outlives every process, also one of a test, and also
// one that is only on its way: the next engine goes on with it, a stop leaves it alone, and
// its job is cleaned only when nothing of it is left there.
//
// A machine that comes home from somewhere else is turned off, and Fetch publishes what its
// disks hold otherwise than its newest point, without what was changed for the place.
//
// The engine needs a vault and a key, no bus: the same code runs inside control
// and in a command on a laptop when the site is lost. It never writes to the vault.
package failover
