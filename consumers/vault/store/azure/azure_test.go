package azure

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// rig is an Azurite and what tests make in it.
type rig struct {
	*azuritetest.Server
	n atomic.Int32
}

func (r *rig) config() Config {
	return Config{
		Account: azuritetest.Account, Container: fmt.Sprintf("test-%d", r.n.Add(1)), Endpoint: r.Endpoint, Create: true,
		Secret: NewSecret(r.ConnectionString()), BlockSize: 1 << 20, Page: 7,
	}
}

func (r *rig) open(t *testing.T, c Config) *Store {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// All of this shares one Azurite: it takes seconds to start.
func TestAzurite(t *testing.T) {
	r := &rig{Server: azuritetest.Start(t)}
	t.Run("conforms", func(t *testing.T) {
		c := r.config()
		var n atomic.Int32
		storetest.Run(t, func(t *testing.T) store.Store {
			c.Folder = fmt.Sprintf("site/%d", n.Add(1)) // what others have in the container is not seen
			return r.open(t, c)
		})
	})
	t.Run("conforms in bad weather", func(t *testing.T) {
		if os.Getenv("LEEWARD_FULL") == "" {
			t.Skip("needs LEEWARD_FULL=1: the same as in memory, slower")
		}
		storetest.RunFaulty(t, func(t *testing.T) store.Store { return r.open(t, r.config()) })
	})
	t.Run("racing blocks", func(t *testing.T) { racingBlocks(t, r) })
	t.Run("bad network", func(t *testing.T) { badNetwork(t, r) })
	t.Run("signature", func(t *testing.T) { signedAccess(t, r) })
	t.Run("refusals", func(t *testing.T) { refusals(t, r) })
	t.Run("tier", func(t *testing.T) { tierIsSet(t, r) })
}

// racingBlocks: writers of one key whose blocks are staged at the same time. Retry may
// be needed, for a writer who commits throws away what others have staged.
func racingBlocks(t *testing.T, r *rig) {
	s := store.Retry(r.open(t, r.config()), store.Policy{Tries: 5, Base: 10 * time.Millisecond, Max: time.Second})
	const writers = 4
	data := make([][]byte, writers)
	for w := range data {
		data[w] = bytes.Repeat([]byte{byte('a' + w)}, 3<<20+w)
	}
	for round := range 3 {
		key := fmt.Sprintf("disks/web/sda/%d.seg", round)
		var wg sync.WaitGroup
		errs := make([]error, writers)
		for w := range writers {
			wg.Go(func() { errs[w] = s.Put(t.Context(), key, data[w]) })
		}
		wg.Wait()
		winner := -1
		for w, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Errorf("%s: both %d and %d won", key, winner, w)
			case err == nil:
				winner = w
			case !errors.Is(err, store.ErrExists):
				t.Errorf("%s: writer %d: %v", key, w, err)
			}
		}
		if winner < 0 {
			t.Fatalf("%s: nobody won: %v", key, errs)
		}
		if b, err := s.Get(t.Context(), key, 0, -1); err != nil || !bytes.Equal(b, data[winner]) {
			t.Errorf("%s: %d bytes, not those of the winner: %v", key, len(b), err)
		}
	}
}

func tierIsSet(t *testing.T, r *rig) {
	c := r.config()
	c.Tier = "cool"
	s := r.open(t, c)
	for key, n := range map[string]int{"small": 10, "large": 2<<20 + 1} {
		if err := s.Put(t.Context(), key, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		p, err := s.client.NewBlobClient(key).GetProperties(t.Context(), nil)
		if err != nil || p.AccessTier == nil || *p.AccessTier != "Cool" {
			t.Errorf("%s: %v, %v", key, p.AccessTier, err)
		}
	}
}

// refusals: what the service refuses becomes a typed error that says where and what to
// try, and no secret.
func refusals(t *testing.T, r *rig) {
	c := r.config()
	c.Create = false
	s := r.open(t, c)
	ctx := t.Context()
	_, stat := s.Stat(ctx, "k")
	_, get := s.Get(ctx, "k", 0, -1)
	for verb, err := range map[string]error{
		"stat": stat, "get": get, "put": s.Put(ctx, "k", nil), "delete": s.Delete(ctx, "k"),
		"list": s.List(ctx, "", func(store.Info) error { return nil }),
	} {
		if !errors.Is(err, store.ErrAway) || errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), c.Container) {
			t.Errorf("%s without a container: %v, want ErrAway", verb, err)
		}
	}
	c = r.config()
	r.open(t, c)
	c.Create, c.Secret = false, NewSecret(strings.Repeat("QUJD", 16))
	if err := r.open(t, c).Put(ctx, "k", nil); !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), azuritetest.Account) || strings.Contains(err.Error(), c.Secret.value) {
		t.Errorf("wrong key: %v, want ErrDenied", err)
	}
	c.Endpoint = "http://127.0.0.1:1/" + azuritetest.Account
	if err := r.open(t, c).Put(ctx, "k", nil); !errors.Is(err, store.ErrAway) {
		t.Errorf("nobody there: %v, want ErrAway", err)
	}
	again := r.config()
	r.open(t, again)
	r.open(t, again) // a container that is there is no mistake
}
