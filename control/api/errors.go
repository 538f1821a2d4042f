package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/control/failover"
)

// Code says what kind of failure an error is. The CLI maps it to its exit code.
type Code string

// The codes.
const (
	CodeFailed        Code = "failed"
	CodeUsage         Code = "usage"
	CodeNotFound      Code = "not_found"
	CodeRefused       Code = "refused"
	CodeNoConnection  Code = "no_connection"
	CodeNotAuthorised Code = "not_authorised"
	CodeTimeout       Code = "timeout"
)

// Error is a failure that says what to try.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Try     string `json:"try,omitempty"`
	cause   error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what caused e, nil if it came over the wire.
func (e *Error) Unwrap() error { return e.cause }

// Errorf makes an error of a code; try may be empty.
func Errorf(code Code, try, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Try: try, cause: err}
}

// AsError gives every error a code.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		if e.Message == err.Error() {
			return e
		}
		return &Error{Code: e.Code, Message: err.Error(), Try: e.Try, cause: err}
	}
	out := &Error{Code: CodeFailed, Message: err.Error(), cause: err}
	switch {
	case errors.Is(err, failover.ErrNoPoint):
		out.Code, out.Try = CodeNotFound, "leeward point ls MACHINE"
	case errors.Is(err, failover.ErrNoJob):
		out.Code, out.Try = CodeNotFound, "leeward job ls"
	case errors.Is(err, failover.ErrTarget), errors.Is(err, failover.ErrRequest):
		out.Code = CodeUsage
	case errors.Is(err, failover.ErrRefused):
		out.Code = CodeRefused
	case errors.Is(err, nats.ErrNoResponders):
		out.Code, out.Message = CodeNoConnection, "the server answers, but no control runs on it"
		out.Try = "start one with: leeward up"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		out.Code = CodeTimeout
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrPermissionViolation), errors.Is(err, nats.ErrAuthExpired):
		out.Code, out.Try = CodeNotAuthorised, "use a context file that belongs to this server: --context DIR/contexts/admin.json"
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrDisconnected):
		out.Code, out.Try = CodeNoConnection, "see that the server runs and --server names it"
	}
	return out
}
