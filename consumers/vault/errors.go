package vault

import (
	"errors"
	"fmt"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Errors of this package, for errors.Is.
var (
	// ErrNotVault means that the store holds no vault.
	ErrNotVault = errors.New("not a vault")
	// ErrWrongKey means that no key slot of the vault opens with the key given.
	ErrWrongKey = errors.New("wrong key")
	// ErrVersion means that an object was written by a newer program.
	ErrVersion = format.ErrVersion
	// ErrDamaged means that an object is not as it was written. See DamageError.
	ErrDamaged = errors.New("damaged")
	// ErrNotFound means that the vault does not hold what was asked for.
	ErrNotFound = store.ErrNotFound
	// ErrExists means that there is one already.
	ErrExists = store.ErrExists
	// ErrConflict means that somebody else wrote that link: Reload and look at Head.
	ErrConflict = errors.New("somebody else was here")
	// ErrFenced means that the vault has a newer epoch of the disk.
	ErrFenced = errors.New("fenced by a newer epoch")
	// ErrBehind means that the vault does not hold what an Open builds on.
	ErrBehind = errors.New("the vault is behind")
	// ErrChain means that a batch does not continue the head: there is a gap, or its
	// chain forked. Reloading does not help, sending again in a new epoch does.
	ErrChain = errors.New("does not continue the chain")
	// ErrInvalid means that what was handed in breaks a rule of its type.
	ErrInvalid = errors.New("invalid")
)

// DamageError says which object is damaged, and how. It is an ErrDamaged, or an
// ErrVersion if the object may only be too new.
type DamageError struct {
	Key  string // of the object
	What string // failed
	Try  string
	err  error
}

// Error returns one line for people.
func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged: %s; %s", e.Key, e.What, e.Try)
}

// Unwrap returns what failed.
func (e *DamageError) Unwrap() error { return e.err }

// Is makes every DamageError an ErrDamaged.
func (e *DamageError) Is(target error) bool {
	return target == ErrDamaged && !errors.Is(e.err, ErrVersion)
}

const (
	tryCheck = "run `leeward vault check` to see what else is, and put the object back from a copy of the store"
	tryNewer = "use the version of leeward that wrote it"
)

// damaged says that the object at key failed a check. Errors of the store are none
// of the object's fault and pass through.
func damaged(key string, err error) error {
	var known *DamageError
	if errors.As(err, &known) {
		return err
	}
	switch {
	case errors.Is(err, ErrVersion):
		return &DamageError{Key: key, What: err.Error(), Try: tryNewer, err: err}
	case errors.Is(err, format.ErrMalformed), errors.Is(err, seal.ErrOpen), errors.Is(err, store.ErrRange), errors.Is(err, errContent):
		return &DamageError{Key: key, What: err.Error(), Try: tryCheck, err: err}
	}
	return err
}

// asDamage finds the damage in an error.
func asDamage(err error, e **DamageError) bool { return errors.As(err, e) }

// errContent means that an object opens and decodes, but contradicts another or
// itself.
var errContent = errors.New("contradiction")

func contradiction(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errContent, fmt.Sprintf(format, args...))
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
