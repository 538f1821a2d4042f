package vault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/dir"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// past is a vault with a history worth folding: which of its points shall stay, and
// what every position was.
type past struct {
	st   *storetest.Mem
	m    *model
	stay []string
}

func newPast(t testing.TB, seed uint64, steps int) *past {
	m := newModel(t, seed, storetest.NewMem())
	m.life(steps)
	p := &past{st: m.st.(*storetest.Mem), m: m}
	for i := 1; i <= m.points; i++ {
		if i%3 == 0 {
			p.stay = append(p.stay, fmt.Sprintf("p%d", i))
		}
	}
	return p
}

func (p *past) maintain(ctx context.Context, st store.Store) error {
	v, err := Unlock(ctx, st, testKey)
	if err != nil {
		return err
	}
	v.fan = 3
	_, err = v.Maintain(ctx, now(keepers, p.stay...))
	return err
}

// verify makes sure that every point that is listed restores, and that those which
// had to stay are listed.
func (p *past) verify(t *testing.T, st store.Store) {
	t.Helper()
	v := unlockTest(t, st)
	wantClean(t, v)
	points, _, err := v.Points(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, x := range points {
		have[x.ID] = true
		wantDisk(t, v, x.Machines[0].Disks[0].At, p.m.states[x.Machines[0].Disks[0].At])
	}
	for _, id := range p.stay {
		if !have[id] {
			t.Fatalf("point %s is gone", id)
		}
	}
	p.m.verifySums(openDisk(t, v))
}

// TestMaintainCrash kills Maintain at each of its operations on the store, before and
// after the operation took effect; then another one must be able to finish.
func TestMaintainCrash(t *testing.T) {
	p := newPast(t, 7, 60)
	whole := p.st.Clone()
	changes := map[int]bool{}
	whole.Faults(func(op storetest.Op) storetest.Fault {
		if op.Verb == "put" || op.Verb == "delete" {
			changes[op.N] = true
		}
		return storetest.Fault{}
	})
	if err := p.maintain(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	ops := whole.Ops()
	before, after := len(p.st.Keys()), len(whole.Keys())
	if ops < 100 || after >= before {
		t.Fatalf("%d operations took %d objects to %d: this test shows too little", ops, before, after)
	}
	seen := map[string]bool{}
	killed := 0
	for n := 1; n <= ops; n++ {
		// What dies reading leaves what the change before left: some of those will do.
		if !full() && (rand.IntN(3) > 0 || !changes[n] && rand.IntN(10) > 0) || slower > 1 && rand.IntN(5) > 0 {
			continue
		}
		killed++
		for _, done := range []bool{false, true} {
			st := p.st.Clone()
			st.Faults(func(op storetest.Op) storetest.Fault {
				switch {
				case op.N < n:
					return storetest.Fault{}
				case op.N == n:
					return storetest.Fault{Err: errCrash, Done: done}
				}
				return storetest.Fault{Err: errCrash}
			})
			if err := p.maintain(t.Context(), st); !errors.Is(err, errCrash) {
				t.Fatalf("operation %d: it survived: %v", n, err)
			}
			st.Faults(nil)
			if is := strings.Join(st.Keys(), " "); !seen[is] { // most operations only read
				seen[is] = true
				p.verify(t, st)
			}
			if err := p.maintain(t.Context(), st); err != nil {
				t.Fatalf("operation %d: the next one: %v", n, err)
			}
			if n%20 == 1 {
				p.verify(t, st)
			}
		}
	}
	t.Logf("killed at %d of %d operations, of which %d change something; %d objects before, %d after", killed, ops, len(changes), before, after)
}

// killer is a store that kills its process at an operation.
type killer struct {
	store.Store
	at, n int64
	after bool
}

func (k *killer) op(f func() error) error {
	hit := atomic.AddInt64(&k.n, 1) == k.at
	if hit && !k.after {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	err := f()
	if hit {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return err
}

func (k *killer) Put(ctx context.Context, key string, data []byte) error {
	return k.op(func() error { return k.Store.Put(ctx, key, data) })
}

func (k *killer) Delete(ctx context.Context, key string) error {
	return k.op(func() error { return k.Store.Delete(ctx, key) })
}

const killEnv = "LEEWARD_TEST_KILL"

// TestMaintainKilled is TestMaintainCrash with a child process on a real directory,
// which is killed with SIGKILL at its operations that change something.
func TestMaintainKilled(t *testing.T) {
	p := newPast(t, 11, 30)
	if where := os.Getenv(killEnv); where != "" { // we are the child
		f := strings.Split(where, "|")
		st, err := dir.Open(f[0])
		if err != nil {
			t.Fatal(err)
		}
		at, _ := strconv.ParseInt(f[1], 10, 64)
		if err := p.maintain(t.Context(), &killer{Store: st, at: at, after: f[2] == "true"}); err != nil {
			t.Fatal(err)
		}
		return
	}
	step := 3
	if full() {
		step = 1
	}
	killed := 0
	for n := 1; ; n += step {
		root := filepath.Join(t.TempDir(), "vault")
		st, err := dir.Create(root)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range p.st.Keys() {
			if err := st.Put(t.Context(), k, p.st.Bytes(k)); err != nil {
				t.Fatal(err)
			}
		}
		c := exec.Command(os.Args[0], "-test.run", "^TestMaintainKilled$")
		c.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d|%v", killEnv, root, n, n%2 == 0))
		out, err := c.CombinedOutput()
		p.verify(t, st)
		if err == nil {
			break // it had nothing more to do
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child: %v\n%s", err, out)
		}
		killed++
	}
	if killed < 5 {
		t.Fatalf("killed %d times only", killed)
	}
	t.Logf("killed %d times", killed)
}
