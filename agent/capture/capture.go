package capture

import (
	"context"
	"errors"
)

// BlockSize is the unit of change in bytes.
const BlockSize = 4096

// Errors that mean something to the caller, for errors.Is.
var (
	// ErrLost means that changes may have been missed: what Take returned since the
	// last good Take cannot be relied on and the disk must be compared as a whole.
	ErrLost = errors.New("changes may have been missed")
	// ErrUnsupported means that this driver cannot follow this disk here.
	ErrUnsupported = errors.New("not supported")
)

// Source follows one disk. Start it, then Take again and again. A Source is used
// by one goroutine at a time.
type Source interface {
	// Name is the driver: "trace" or "scan".
	Name() string

	// Guarantee says in one sentence, for people, what is promised for this disk.
	Guarantee() string

	// Start begins to follow the disk. Every write that completes after Start has
	// returned is in the result of some later Take.
	Start(ctx context.Context) error

	// Take returns what changed since the Take before (or Start) and forgets it. A
	// block is in the result of a Take that begins after its write completed. Read
	// the blocks after Take, never before. ErrLost: see there; the source goes on
	// following from this moment.
	Take(ctx context.Context) (*Set, error)

	// Audit compares what the source saw with what the kernel counted, nothing
	// being in flight on the disk (it is frozen). ErrLost if they differ and the
	// difference cannot be explained.
	Audit(ctx context.Context) error

	// Cheap says whether Take costs next to nothing, so that it may be called while
	// the disk is frozen. The scan driver reads the whole disk instead.
	Cheap() bool

	// Close stops following and removes every trace of it from the kernel.
	Close() error
}
