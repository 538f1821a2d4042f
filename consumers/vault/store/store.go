package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors of every store, for errors.Is.
var (
	// ErrExists means that the key is taken; its object was left as it is.
	ErrExists = errors.New("already exists")
	// ErrNotFound means that there is no such object.
	ErrNotFound = errors.New("not found")
	// ErrRange means that the object does not have all the bytes asked for.
	ErrRange = errors.New("beyond the end of the object")
	// ErrKey means that a key is not one the vault would write.
	ErrKey = errors.New("bad key")
	// ErrFull means that the place has no room left.
	ErrFull = errors.New("no space left")
	// ErrAway means that the place itself cannot be reached: not mounted, no network.
	// It says nothing about what is in there.
	ErrAway = errors.New("the store is away")
	// ErrBusy means that the place refused for now: it throttles, or has trouble of
	// its own. See BusyError.
	ErrBusy = errors.New("the store is busy")
	// ErrKept means that an object may not be deleted yet: a period of immutability or
	// a legal hold keeps it. Deleting others may go on.
	ErrKept = errors.New("kept by the store")
	// ErrDenied means that the rights in use do not allow the operation.
	ErrDenied = errors.New("not allowed")
	// ErrLost means that the object was there and that too little of it is left.
	ErrLost = errors.New("lost")
)

// BusyError is an ErrBusy of a store that says when to come back.
type BusyError struct {
	After time.Duration // 0: not said
	Err   error
}

// Error returns what the store said.
func (e *BusyError) Error() string { return e.Err.Error() }

// Unwrap returns what the store said.
func (e *BusyError) Unwrap() error { return e.Err }

// Is makes every BusyError an ErrBusy.
func (e *BusyError) Is(target error) bool { return target == ErrBusy }

// Info is what a store knows about an object without reading it.
type Info struct {
	Key      string
	Size     int64 // bytes
	Modified time.Time
}

// Store keeps objects. All methods may be called from many goroutines.
type Store interface {
	// URL names the place, as OpenStore takes it.
	URL() string
	// Put creates an object and returns when it is durable. It returns ErrExists if
	// the key is taken, and does not keep data.
	Put(ctx context.Context, key string, data []byte) error
	// Get reads n bytes at off. With n < 0 it reads to the end; with off < 0 it reads
	// the last -off bytes, or the whole object if it is shorter, and n is ignored. It
	// returns ErrNotFound, or ErrRange rather than fewer bytes than asked for. The
	// result belongs to the caller.
	Get(ctx context.Context, key string, off, n int64) ([]byte, error)
	// Stat returns ErrNotFound if there is no such object.
	Stat(ctx context.Context, key string) (Info, error)
	// List calls yield for every object whose key starts with prefix, in ascending
	// order of the keys' bytes, until yield returns an error, which List returns.
	List(ctx context.Context, prefix string, yield func(Info) error) error
	// Delete removes an object, and returns nil if it is gone already. It returns
	// ErrKept if the object is too young to go, ErrDenied without the right.
	Delete(ctx context.Context, key string) error
}

// Syncer is implemented by stores where an object can be seen before it is
// durable: when the writer died inside Put.
type Syncer interface {
	// Sync returns when every object that List shows under prefix is durable, and
	// will stay the one it is.
	Sync(ctx context.Context, prefix string) error
}

// Repairer is implemented by stores that hold more than they need and can heal
// themselves from it.
type Repairer interface {
	// Repair looks at every byte and calls report, one call at a time, for all that is
	// not as it should be. With write it puts right what can be. It returns an error
	// only if it could not look at everything.
	Repair(ctx context.Context, write bool, report func(Finding)) error
}

// Finding is one thing that a Repairer found.
type Finding struct {
	Key   string // of the object; empty: a whole place
	Where string // URL of the place
	What  string // is wrong
	Fixed bool   // it is not wrong any more
	Lost  bool   // nothing here can put it right
	Try   string // what the operator can do, if there is anything
}

// MaxKey is the longest key in bytes.
const MaxKey = 512

const maxElement = 200

// CheckKey returns ErrKey, with the reason, for a key that no store has to take.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("%w: %d bytes, want 1 to %d", ErrKey, len(key), MaxKey)
	}
	for element := range strings.SplitSeq(key, "/") {
		if element == "" || len(element) > maxElement || element[0] == '.' {
			return fmt.Errorf("%w %q: element %q is empty, too long or starts with '.'", ErrKey, key, element)
		}
		for i := range len(element) {
			if !plain(element[i]) {
				return fmt.Errorf("%w %q: use letters, digits, '-', '_', '.' and '/'", ErrKey, key)
			}
		}
	}
	return nil
}

// CheckPrefix returns ErrKey for a prefix that no key can start with.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckKey(strings.TrimSuffix(prefix, "/"))
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

// Range resolves Get's off and n for an object of size bytes: where to start and
// how much to read.
func Range(size, off, n int64) (start, count int64, err error) {
	switch {
	case off < 0:
		start = max(0, size+off)
		return start, size - start, nil
	case off > size || n > size-off:
		return 0, 0, fmt.Errorf("%w: bytes %d+%d of %d", ErrRange, off, n, size)
	case n < 0:
		return off, size - off, nil
	}
	return off, n, nil
}
