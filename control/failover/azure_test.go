package failover

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
	"github.com/leeward-dr/leeward/control/vaulttest"
)

// inAzure is an engine whose machines come up in a cloud of the test.
type inAzure struct {
	*testing.T
	cloud *armtest.Cloud
	v     *vaulttest.Vault
	dir   string
	e     *Engine
}

// start makes the engine of a new process.
func (a *inAzure) start() {
	a.Helper()
	cfg := Azure{Config: azure.Config{Place: azure.Place{
		Subscription: armtest.Subscription, ResourceGroup: armtest.Group, Region: armtest.Region, Subnet: armtest.Subnet,
	}}.Tune(azure.Tuning{Transport: a.cloud, Credential: armtest.Credential(), Pause: time.Millisecond})}
	log := slog.New(slog.DiscardHandler)
	e, err := New(Config{Dir: a.dir, Vault: a.v.Vault, Target: Targets(log, cfg), Adopt: cfg.Adopt(log, Keeper{}), Log: log})
	if err != nil {
		a.Fatal(err)
	}
	a.e = e
}

// stop ends it in good order.
func (a *inAzure) stop() {
	a.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	if err := a.e.Stop(ctx); err != nil {
		a.Error(err)
	}
}

func (a *inAzure) left(want bool) {
	a.Helper()
	if left := a.cloud.Left(a); (len(left) > 0) != want {
		a.Errorf("in the cloud there is %v", left)
	}
}

// keepTree keeps what a process that dies has on its disk. It may be replacing or removing a
// file just now: then it is looked at again.
func keepTree(t *testing.T, to, from string) {
	err := copyTree(to, from)
	for n := 0; err != nil && n < 100; n++ {
		if err = os.RemoveAll(to); err == nil {
			err = copyTree(to, from)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(from, path) // path begins with from
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case strings.HasSuffix(path, ".new") || strings.HasPrefix(d.Name(), ".tmp-"):
			return nil // not in its place yet
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
}

func TestAzure(t *testing.T) {
	s := azuritetest.Start(t)
	image := make([]byte, 3<<20)
	for i := range 300 {
		image[i*8192] = byte(i) | 1
	}
	fresh := func(t *testing.T) *inAzure {
		a := &inAzure{T: t, cloud: armtest.New(t, s.Endpoint, azuritetest.Account, azuritetest.Key), v: vaulttest.New(t), dir: t.TempDir()}
		a.v.Disk(t, "p1", "web", image, time.Now())
		a.start()
		t.Cleanup(func() { a.stop() })
		return a
	}
	r := Request{ID: "r1", Machine: "web", Point: "latest", Target: "azure", Options: Options{Serial: "booted", Fixup: "off"}}
	t.Run("outlives control", func(t *testing.T) {
		a := fresh(t)
		j, err := a.e.Test(r)
		if err != nil {
			t.Fatal(err)
		}
		if j = settled(t, a.e, j.ID); j.State != Alive || !strings.Contains(strings.Join(j.Result.Evidence, "\n"), "as the point promises") {
			t.Fatalf("%+v, %+v", j, j.Result)
		}
		name := a.cloud.Disks()[0]
		a.stop()
		if got := a.cloud.Download(t, name); !bytes.Equal(got[:len(image)], image) {
			t.Error("the disk in Azure is not that of the point")
		}
		a.start()
		if j = settled(t, a.e, j.ID); j.State != Alive {
			t.Fatalf("after control was stopped and started the job is %s: %s", j.State, j.Error)
		}
		a.left(true)
		if j, err = a.e.Cleanup(t.Context(), j.ID); err != nil || j.State != Cleaned {
			t.Errorf("%+v, %v", j, err)
		}
		a.left(false)
	})
	t.Run("goes on", func(t *testing.T) {
		for _, n := range []int{13, 19, 28} {
			a := fresh(t)
			kept := t.TempDir()
			a.cloud.OnDeath(func() { keepTree(t, kept, a.dir) })
			died := a.cloud.At(n, armtest.Dead)
			j, err := a.e.Failover(r)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-died:
			case <-time.After(longTime):
				t.Fatal("it does not die")
			}
			a.stop()
			a.dir = kept // what a process does after its death has never been
			a.cloud.Revive()
			a.start()
			if j = settled(t, a.e, j.ID); j.State != Alive {
				t.Errorf("killed at call %d, %s: the job is %s: %s", n, a.cloud.Calls()[n-1], j.State, j.Error)
			}
			if j, err = a.e.Cleanup(t.Context(), j.ID); err != nil || j.State != Cleaned {
				t.Errorf("%+v, %v", j, err)
			}
			a.left(false)
		}
	})
	t.Run("what cannot be removed is not forgotten", func(t *testing.T) {
		a := fresh(t)
		j, err := a.e.Test(r)
		if err != nil {
			t.Fatal(err)
		}
		settled(t, a.e, j.ID)
		a.cloud.Forbid(true)
		if j, err = a.e.Cleanup(t.Context(), j.ID); err == nil || j.State != Failed || !strings.Contains(err.Error(), "docs/ops/azure.md") {
			t.Fatalf("%+v, %v", j, err)
		}
		a.stop()
		a.start()
		a.left(true)
		a.cloud.Forbid(false)
		if j, err = a.e.Cleanup(t.Context(), j.ID); err != nil || j.State != Cleaned {
			t.Errorf("%+v, %v", j, err)
		}
		a.left(false)
	})
	t.Run("refused", func(t *testing.T) {
		a := fresh(t)
		port := r
		port.Options.Port = 22
		if _, err := a.e.Test(port); !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), "isolation") {
			t.Errorf("a port of an isolated machine: %v", err)
		}
		other := r
		other.Options.Azure.Size = "Standard_X9"
		if _, err := a.e.Validate(t.Context(), other); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "Standard_X9") {
			t.Errorf("a size that does not exist: %v", err)
		}
		other.Target = "qemu"
		if err := other.Validate(); err == nil {
			t.Error("settings of Azure for QEMU")
		}
	})
}
