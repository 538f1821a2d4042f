package target

import (
	"context"
	"errors"
	"io"
	"time"
)

// BlockSize is the unit in which disks are restored, in bytes.
const BlockSize = 4096

// Disk is one disk of the machine to bring up: a recovery point, read-only.
// ReadAt may be called from many goroutines.
type Disk interface {
	io.ReaderAt
	Name() string
	Size() int64 // bytes
	// Extents calls yield for every run of bytes that may hold data, ascending; what
	// lies between reads as zeros.
	Extents(yield func(off, length int64) bool)
	// Digest is what the point promises, see vault.Digest.
	Digest() [32]byte
}

// Restorer is a Disk that can be written somewhere as a whole, and vouches for it. What
// copies a disk wants one; what runs from it does not.
type Restorer interface {
	Disk
	// Restore writes every block that is not zero to dst, whole blocks only but for the
	// disk's last, none twice, in any order and from several goroutines. It fails unless
	// what it wrote has Digest. progress may be nil; it is called one call at a time.
	Restore(ctx context.Context, dst io.WriterAt, progress Progress) error
}

// Verifier is a Disk that can say whether a copy of it is right.
type Verifier interface {
	Disk
	// Verify reads what may hold data from src, which is as large as the disk, and fails
	// unless it is as Digest promises.
	Verify(ctx context.Context, src io.ReaderAt) error
}

// Versioned is a Disk that knows what it was at other times.
type Versioned interface {
	Restorer
	// Version names what the disk holds. Two that differ never have the same name.
	Version() string
	// Since calls yield for the runs of bytes, ascending and of whole blocks (but for the
	// disk's last), outside of which the disk is as it was at every one of these versions. It
	// returns ErrNoVersion if one of them is not known any more.
	Since(ctx context.Context, versions []string, yield func(off, length int64) bool) error
}

// ErrNoVersion means that it is not known any more what a disk was at a version.
var ErrNoVersion = errors.New("that version of the disk is not known any more")

// Machine is what to bring up.
type Machine struct {
	Name     string
	CPUs     int
	Memory   int64  // bytes
	Firmware string // "bios" or "uefi"
	Disks    []Disk // boot order
	// Point is the recovery point that the disks are of, and Time when it was cut; for people.
	Point string
	Time  time.Time
}

// Probe is how to tell that the machine lives. All that are set must succeed.
type Probe struct {
	Serial  string        // regular expression a serial line must match
	Port    int           // TCP port of the guest that must accept
	HTTP    string        // path that must answer 2xx on Port
	Timeout time.Duration // for all of it
}

// Result is what was seen of a machine that was brought up.
type Result struct {
	Alive      bool
	Evidence   []string      // what answered, one line each
	FirstLine  time.Duration // from start to the first serial line
	Boot       time.Duration // from start to the probe's success
	BytesRead  int64         // that the guest read from its disks
	Fetched    int64         // that was fetched from the vault for it, if who runs it knows
	Screen     string        // file with a picture of the screen, "" if none
	SerialLog  string        // file with what the machine said
	PortOnHost int           // where Probe.Port can be reached, 0 if not
	Fixups     []string      // what was changed on its disks so that it boots here
}

// Progress is told how far long work is, in bytes. It must be quick.
type Progress func(what string, done, total int64)

// Running is a machine that was brought up.
type Running interface {
	// Probe waits for proof of life and takes a picture of the screen.
	Probe(ctx context.Context, p Probe) (*Result, error)
	// Stop asks the machine to power off, and ends it if it does not in time or when ctx
	// ends. It must be called, also for a machine that ended by itself.
	Stop(ctx context.Context) error
	// Wait blocks until the machine has ended.
	Wait(ctx context.Context) error
}

// Target brings machines up somewhere.
type Target interface {
	Name() string
	// Validate says, before anything is done, why m cannot come up here.
	Validate(ctx context.Context, m *Machine) error
	// Start brings m up. dir is an empty directory for everything the run leaves:
	// removing it, after Stop, removes every trace. The disks are read until Stop. In the
	// directory of a run that has ended, however, and with the same disks, it may go on
	// from what that machine had put on its disks.
	Start(ctx context.Context, m *Machine, dir string) (Running, error)
}

// Rehearser is a Target that may have to change a machine's disks before it boots.
type Rehearser interface {
	// Rehearse does so on overlays in dir, an empty directory, and nothing else. It returns
	// what would be done, a line each, and an error if the machine could not be made fit.
	Rehearse(ctx context.Context, m *Machine, dir string) ([]string, error)
}

// Remote is a Running whose machine lives somewhere else: it outlives the process that
// started it, and what was made for it must be removed there.
type Remote interface {
	Running
	// Leave ends what this process does for the machine, and touches nothing of it.
	Leave()
	// Unfinished reports whether the machine is not up yet: Start, in the same directory
	// and with the same disks, goes on.
	Unfinished() bool
}

// Homing is a Remote whose machine can be led home: it is turned off, and its disks are read.
// All of this may be asked for again, also by another process.
type Homing interface {
	Remote
	// Off turns the machine off. Its disks keep what it wrote.
	Off(ctx context.Context) error
	// On starts it again from what its disks hold. They must not be open.
	On(ctx context.Context) error
	// Disks opens the disks of a machine that is off, until ctx ends or shut is called.
	Disks(ctx context.Context) (disks []Source, shut func(context.Context) error, err error)
}

// Source is a disk that lies somewhere else. What lies outside of its extents reads as zeros.
type Source interface {
	io.ReaderAt
	Name() string
	Size() int64 // bytes
	Extents(yield func(off, length int64) bool)
}
