package streams

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What a server or a cluster cannot do yet is asked for again; what it never can is not.
func TestPatiently(t *testing.T) {
	api := func(code jetstream.ErrorCode) error { return &jetstream.APIError{ErrorCode: code} }
	for _, c := range []struct {
		name  string
		fails int // how often the answer is err before it is none; -1: always
		err   error
		tries int // seen
		ok    bool
	}{
		{"at once", 0, nil, 1, true},
		{"no leader yet", 40, api(codeNoQuorum), 41, true},
		{"not all nodes yet", 40, api(codeNoPeers), 41, true},
		{"a store that fails for a moment", 3, api(codeCreateFailed), 4, true},
		{"a store that always fails", -1, api(codeCreateFailed), storeTries, false},
		{"a stream of another kind", -1, api(10052), 1, false},
		{"something else", -1, errors.New("something else"), 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				tries := 0
				err := patiently(ctx, func(context.Context) error {
					if tries++; c.fails < 0 || tries <= c.fails {
						return c.err
					}
					return nil
				})
				if tries != c.tries || (err == nil) != c.ok {
					t.Errorf("%d tries, then %v", tries, err)
				}
				if !c.ok && !errors.Is(err, c.err) {
					t.Errorf("%v hides its cause", err)
				}
				if c.tries == storeTries && !strings.Contains(err.Error(), "free space") {
					t.Errorf("%v does not say what to try", err)
				}
			})
		})
	}
}

// A request that is not answered is made again.
func TestPatientlyUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		if err := patiently(t.Context(), func(ctx context.Context) error {
			if tries++; tries == 3 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}); err != nil || tries != 3 {
			t.Errorf("%d tries, then %v", tries, err)
		}
	})
}
