package azure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// failed says what went wrong where, in the store's terms. parent is the context of
// the caller, err came from an attempt with a deadline of ours.
//
// Errors of the SDK are not wrapped: they hold requests, and those hold secrets.
func (s *Store) failed(parent context.Context, op, key string, err error) error {
	where := fmt.Sprintf("%s %s in %s", op, key, s.place)
	if key == "" {
		where = fmt.Sprintf("%s %s", op, s.place)
	}
	if c := parent.Err(); c != nil {
		return fmt.Errorf("%s: %w", where, c)
	}
	var response *azcore.ResponseError
	var none *azidentity.AuthenticationFailedError
	var network net.Error
	switch {
	case errors.As(err, &response):
		return s.refused(where, response)
	case errors.As(err, &none), strings.Contains(err.Error(), "DefaultAzureCredential"):
		return fmt.Errorf("%s: %w: no credentials work: set credentials=FILE or AZURE_STORAGE_*, or see that an identity is there (%s)", where, store.ErrDenied, s.scrub(err))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.As(err, &network) && network.Timeout():
		return &store.BusyError{Err: fmt.Errorf("%s: no answer in time: is the network slow or cut?", where)}
	case errors.Is(err, errShort):
		return fmt.Errorf("%s: the answer broke off: %s", where, s.scrub(err))
	}
	return fmt.Errorf("%s: %w: %s: see that the network and the account's name are right", where, store.ErrAway, s.scrub(err))
}

// errShort means that a body ended before its time.
var errShort = errors.New("short body")

// refused turns an answer of the service into an error.
func (s *Store) refused(where string, r *azcore.ResponseError) error {
	code := bloberror.Code(r.ErrorCode)
	said := r.ErrorCode
	if said == "" {
		said = "no error code"
	}
	said = fmt.Sprintf("%s (HTTP %d)", said, r.StatusCode)
	switch code {
	case bloberror.BlobAlreadyExists, bloberror.ConditionNotMet, bloberror.TargetConditionNotMet:
		return fmt.Errorf("%s: %w", where, store.ErrExists)
	case bloberror.ContainerNotFound, bloberror.ContainerBeingDeleted, bloberror.ContainerDisabled:
		return fmt.Errorf("%s: %w: there is no such container: %s; name the right one, or make it with leeward vault init", where, store.ErrAway, said)
	case bloberror.AccountIsDisabled:
		return fmt.Errorf("%s: %w: %s; enable the account", where, store.ErrAway, said)
	case bloberror.BlobImmutableDueToPolicy, "BlobHasLegalHold", bloberror.LeaseIDMissing, bloberror.SnapshotsPresent:
		return fmt.Errorf("%s: %w: %s; it can be deleted when the policy, hold or lease has ended", where, store.ErrKept, said)
	case bloberror.BlobArchived, bloberror.BlobBeingRehydrated:
		return fmt.Errorf("%s: %w: %s: somebody archived it; set its tier to hot, and wait", where, store.ErrDenied, said)
	case bloberror.InvalidBlockList:
		return &store.BusyError{Err: fmt.Errorf("%s: %s: another writer's blocks took the place of ours", where, said)}
	}
	switch r.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%s: %w", where, store.ErrNotFound)
	case http.StatusConflict, http.StatusPreconditionFailed:
		if strings.HasPrefix(where, "put ") && r.ErrorCode == "" {
			return fmt.Errorf("%s: %w", where, store.ErrExists)
		}
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%s: %w: %s: see that the key or signature is current and has the right to do this, and that the clock is right", where, store.ErrDenied, said)
	case http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%s: %w", where, store.ErrRange)
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &store.BusyError{After: retryAfter(r.RawResponse), Err: fmt.Errorf("%s: the service refuses for now: %s", where, said)}
	}
	return fmt.Errorf("%s: the service said %s", where, said)
}

func retryAfter(r *http.Response) time.Duration {
	if r == nil {
		return 0
	}
	for _, h := range []string{"X-Ms-Retry-After-Ms", "Retry-After-Ms"} {
		if n, err := strconv.Atoi(r.Header.Get(h)); err == nil && n > 0 {
			return time.Duration(n) * time.Millisecond
		}
	}
	h := r.Header.Get("Retry-After")
	if n, err := strconv.Atoi(h); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(h); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

var signature = regexp.MustCompile(`(?i)(sig|AccountKey|SharedAccessSignature|client_secret|client_assertion)(=|%3d)[^&;\s"]*`)

// scrub is the text of an error without secrets and without the URL of the request.
func (s *Store) scrub(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	text := err.Error()
	for _, secret := range s.secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[hidden]")
		}
	}
	text = signature.ReplaceAllString(text, "$1=[hidden]")
	if first, _, more := strings.Cut(text, "\n"); more {
		text = first
	}
	return text[:min(len(text), 300)]
}
