package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
)

// The exit codes. A code that is not listed must be read as failure.
const (
	ExitOK            = 0
	ExitFailed        = 1
	ExitUsage         = 2
	ExitPartial       = 3 // finished with warnings, or only in part
	ExitNotFound      = 4
	ExitRefused       = 5 // a precondition does not hold; may need --force
	ExitNoConnection  = 6
	ExitNotAuthorised = 7
	ExitTimeout       = 8 // timed out waiting; the job goes on
	ExitInterrupted   = 130
)

// Exit is an error that knows its exit code. Err may be nil: then nothing is
// printed, what was to say is said.
type Exit struct {
	Code int
	Err  error
}

// Error returns the message.
func (e *Exit) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *Exit) Unwrap() error { return e.Err }

// Usage makes an error of wrong usage. try may be empty.
func Usage(try, format string, args ...any) error {
	return api.Errorf(api.CodeUsage, try, format, args...)
}

var byCode = map[api.Code]int{
	api.CodeFailed: ExitFailed, api.CodeUsage: ExitUsage, api.CodeNotFound: ExitNotFound,
	api.CodeRefused: ExitRefused, api.CodeNoConnection: ExitNoConnection,
	api.CodeNotAuthorised: ExitNotAuthorised, api.CodeTimeout: ExitTimeout,
}

// classify gives err an exit code, a message and what to try.
func classify(err error) (code int, message, try string) {
	if e, ok := errors.AsType[*Exit](err); ok {
		if e.Err == nil {
			return e.Code, "", ""
		}
		_, message, try = classify(e.Err)
		return e.Code, message, try
	}
	if errors.Is(err, context.Canceled) {
		return ExitInterrupted, "interrupted", ""
	}
	if e := vaultError(err); e != nil {
		err = e
	}
	e := api.AsError(err)
	code, ok := byCode[e.Code]
	if !ok {
		code = ExitFailed
	}
	return code, e.Message, e.Try
}

// vaultError says what to try about the vault's own errors.
func vaultError(err error) error {
	switch {
	case errors.Is(err, vault.ErrWrongKey):
		return api.Errorf(api.CodeNotAuthorised, "give the right key: --key-file FILE, or LEEWARD_KEY", "%w", err)
	case errors.Is(err, vault.ErrNotVault):
		return api.Errorf(api.CodeNotFound, "name another with --vault, or make one: leeward vault init --vault URL", "%w", err)
	case errors.Is(err, vault.ErrExists):
		return api.Errorf(api.CodeRefused, "", "%w", err)
	case errors.Is(err, vault.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "see what is there: leeward vault ls", "%w", err)
	case errors.Is(err, vault.ErrVersion):
		return api.Errorf(api.CodeFailed, "use the version of leeward that wrote it, or a newer one", "%w", err)
	case errors.Is(err, vault.ErrDamaged):
		if d, ok := errors.AsType[*vault.DamageError](err); ok {
			return &api.Error{Code: api.CodeFailed, Message: fmt.Sprintf("%s is damaged: %s", d.Key, d.What), Try: d.Try}
		}
		return api.Errorf(api.CodeFailed, "see all that is damaged: leeward vault check --read-data", "%w", err)
	}
	return nil
}
