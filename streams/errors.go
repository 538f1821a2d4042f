package streams

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of the JetStream API that say "not now". The numbers are part of
// the server's public API.
const (
	codeAccountFull  = 10002 // the account's store is used up
	codeNoPeers      = 10005 // not enough nodes for the copies
	codeNoQuorum     = 10008 // a cluster without a leader
	codeInsufficient = 10023 // the server's resources are used up
	codeMemoryFull   = 10028 // the server's memory store is used up
	codeStorageFull  = 10047 // the server's file store is used up
	codeCreateFailed = 10049 // the store of a new stream could not be made
	codeStoreFailed  = 10077 // the stream is at a limit, or its disk fails; the text says which
	codeTooMany      = 10167 // more requests in flight than the server holds
)

// tooLarge is how the server words the one case of codeStoreFailed that no
// amount of waiting cures.
const tooLarge = "message too large"

// IsFull reports whether err says that the stream or the store under it has no
// room. Nothing was stored: slow down and publish the same message again later.
func IsFull(err error) bool {
	code, text := apiCode(err)
	switch code {
	case codeStoreFailed:
		return !strings.Contains(text, tooLarge)
	case codeAccountFull, codeInsufficient, codeMemoryFull, codeStorageFull:
		return true
	}
	return false
}

// Retryable reports whether the same message, with the same Nats-Msg-Id, may be
// published again after a pause: the stream is full, the server is busy, away or
// between leaders, or its answer was lost. It is false for what a repeat cannot
// cure: a fence (wrong last sequence), a message that is too large, missing
// permissions, a cancelled context, and anything unknown.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if IsFull(err) {
		return true
	}
	if code, _ := apiCode(err); code != 0 {
		return code == codeTooMany || code == codeNoQuorum
	}
	for _, again := range []error{
		context.DeadlineExceeded, os.ErrDeadlineExceeded, io.EOF, net.ErrClosed,
		nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrReconnectBufExceeded,
		nats.ErrConnectionReconnecting, nats.ErrStaleConnection, nats.ErrNoServers,
		jetstream.ErrNoStreamResponse, jetstream.ErrTooManyStalledMsgs, jetstream.ErrAsyncPublishTimeout,
		jetstream.ErrServerShutdown, jetstream.ErrNoHeartbeat,
	} {
		if errors.Is(err, again) {
			return true
		}
	}
	return false
}

// apiCode digs out the JetStream API error in err. It is 0 if there is none.
func apiCode(err error) (code int, text string) {
	// The publisher and the rest of the client wrap it in different types.
	var js jetstream.JetStreamError
	if errors.As(err, &js) && js.APIError() != nil {
		return int(js.APIError().ErrorCode), js.APIError().Description
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return int(api.ErrorCode), api.Description
	}
	var old *nats.APIError
	if errors.As(err, &old) {
		return int(old.ErrorCode), old.Description
	}
	return 0, ""
}
