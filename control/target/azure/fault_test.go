package azure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/control/target/azure/armtest"
)

// listener is a port on this host that accepts; the cloud says that machines are here.
func listener(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// badEnds: an operation that begins well and ends with an error is found, and all that was
// made until then is removed.
func (r rig) badEnds(t *testing.T) {
	for _, kind := range []string{
		"put disk", "grant", "revoke", "put networksecuritygroups", "put virtualnetworks", "put networkinterfaces", "put machine",
		"delete machine", "delete networkinterfaces", "delete disk", "delete virtualnetworks", "delete networksecuritygroups",
	} {
		t.Run(kind, func(t *testing.T) {
			c := r.cloud(t)
			c.Break(kind, "InternalOperationError")
			err := flow(t, c, testTarget(c), machine(content(10, 1<<20)))
			if strings.HasPrefix(kind, "delete") != (err == nil) && kind != "grant" {
				t.Errorf("the flow ends with %v", err)
			}
		})
	}
}

// everyCall fails every call of a flow once, one at a time: each in one of three ways, in
// turn, or with LEEWARD_FULL in all of them, and with import too.
func (r rig) everyCall(t *testing.T) {
	full := os.Getenv("LEEWARD_FULL") == "1"
	fates := []armtest.Fate{armtest.Lost, armtest.Busy, armtest.Refused}
	for _, via := range []string{Upload, Import} {
		if via == Import && !full {
			continue
		}
		p := place()
		p.Via = via
		calls := r.calls(t, p)
		ends := map[armtest.Fate]int{}
		var mu sync.Mutex
		var some errgroup.Group
		some.SetLimit(atOnce)
		for n := 1; n <= len(calls); n++ {
			for i, fate := range fates {
				if !full && n%len(fates) != i {
					continue
				}
				some.Go(func() error {
					c := r.cloud(t)
					c.At(n, fate)
					err := flow(t, c, New(config(c, p, true)), machine(content(11, 1<<20)))
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						ends[fate]++
					}
					if err != nil && fate == armtest.Busy {
						t.Errorf("%s: call %d, %s, was %s, and that was the end: %v", via, n, calls[n-1], fate, err)
					}
					if t.Failed() {
						return fmt.Errorf("%s: call %d, %s, was %s; then: %v", via, n, calls[n-1], fate, err)
					}
					return nil
				})
			}
		}
		if err := some.Wait(); err != nil {
			t.Errorf("the first of these: %v", err)
		}
		t.Logf("%s: each of %d calls failed; flows that ended with an error: %v; nothing was left", via, len(calls), ends)
	}
}

// atOnce is how many flows go on at a time: they mostly wait.
const atOnce = 8

// calls lists the calls of a flow in which nothing fails.
func (r rig) calls(t *testing.T, p Place) []string {
	c := r.cloud(t)
	c.At(0, armtest.Good)
	if err := flow(t, c, New(config(c, p, true)), machine(content(11, 1<<20))); err != nil {
		t.Fatal(err)
	}
	return c.Calls()
}

// killed: the process dies before it hears of a call, at every call; another goes on, and
// a third one removes what it made.
func (r rig) killed(t *testing.T) {
	calls := r.calls(t, place())
	var some errgroup.Group
	some.SetLimit(atOnce)
	for n := 1; n <= len(calls); n++ {
		some.Go(func() error {
			if err := r.killedAt(t, n); err != nil {
				return fmt.Errorf("killed at call %d, %s: %w", n, calls[n-1], err)
			}
			return nil
		})
	}
	if err := some.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("killed at each of %d calls", len(calls))
}

func (r rig) killedAt(t *testing.T, n int) error {
	c, ctx, dir, kept := r.cloud(t), ctxOf(t), t.TempDir(), t.TempDir()
	c.OnDeath(func() { keepFiles(t, kept, dir) })
	died := c.At(n, armtest.Dead)
	m, tg := machine(content(12, 1<<20)), New(config(c, place(), true))
	if run, err := tg.Start(ctx, m, dir); err == nil {
		alive, end := context.WithCancel(ctx)
		go func() {
			defer end()
			select {
			case <-died:
			case <-ctx.Done():
			}
		}()
		if _, err = run.Probe(alive, booted); err == nil {
			err = run.Stop(ctx)
		}
		select {
		case <-died:
		default:
			return fmt.Errorf("the call was never made: %w", err)
		}
		run.(*Run).Leave()
	}
	c.Revive()
	b, err := openBook(kept)
	if errors.Is(err, errNoRun) { // nothing was made yet
		clean(t, c, kept)
		return nil
	}
	if err != nil {
		return err
	}
	run, err := tg.Start(ctx, m, kept)
	if b.Removing != (err != nil) {
		return fmt.Errorf("being removed: %v, start again: %w", b.Removing, err)
	}
	if err == nil {
		res, err := run.Probe(ctx, booted)
		if err != nil || !res.Alive {
			return fmt.Errorf("the next process: %w, %+v", err, res)
		}
		run.(*Run).Leave()
	}
	last, err := Adopt(config(c, Place{}, false), kept)
	if err != nil {
		return err
	}
	if err := last.Stop(ctx); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	clean(t, c, kept)
	return nil
}

// keepFiles keeps what a process that dies has on its disk. It may be replacing or removing
// a file just now: then it is looked at again.
func keepFiles(t *testing.T, to, from string) {
	err := copyFiles(to, from)
	for n := 0; err != nil && n < 100; n++ {
		err = copyFiles(to, from)
	}
	if err != nil {
		t.Error(err)
	}
}

// copyFiles makes the files of a directory those of another.
func copyFiles(to, from string) error {
	old, err := filepath.Glob(filepath.Join(to, "*"))
	for _, f := range old {
		err = errors.Join(err, os.Remove(f))
	}
	all, gerr := filepath.Glob(filepath.Join(from, "*"))
	err = errors.Join(err, gerr)
	for _, f := range all {
		if strings.HasSuffix(f, ".new") {
			continue // not in its place yet
		}
		b, rerr := os.ReadFile(f)
		err = errors.Join(err, rerr, os.WriteFile(filepath.Join(to, filepath.Base(f)), b, 0o600))
	}
	return err
}

// sentOnce: what an upload that was killed had sent is not sent again.
func (r rig) sentOnce(t *testing.T) {
	data := make([]byte, 21<<20)
	for off := 0; off < 20<<20; off += 1 << 20 {
		copy(data[off:], content(uint64(off), 8192))
	}
	puts := func(c *armtest.Cloud) (n int) {
		for _, x := range c.Calls() {
			if strings.HasPrefix(x, "PUT") && strings.HasSuffix(x, " page") {
				n++
			}
		}
		return n
	}
	c, ctx := r.cloud(t), ctxOf(t)
	c.At(0, armtest.Good)
	if err := flow(t, c, testTarget(c), machine(data)); err != nil {
		t.Fatal(err)
	}
	all, first := puts(c), 0
	for i, x := range c.Calls() {
		if strings.HasSuffix(x, " page") {
			first = i + 1
			break
		}
	}
	dir, kept := t.TempDir(), t.TempDir()
	c.OnDeath(func() { keepFiles(t, kept, dir) })
	c.At(first+all*2/3, armtest.Dead)
	run, err := testTarget(c).Start(ctx, machine(data), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run.Probe(ctx, booted); err == nil {
		t.Fatal("it was not killed")
	}
	run.(*Run).Leave()
	c.Revive()
	before := puts(c)
	c.At(0, armtest.Good)
	run, err = testTarget(c).Start(ctx, machine(data), kept)
	if err != nil {
		t.Fatal(err)
	}
	res, err := run.Probe(ctx, booted)
	if err != nil || !res.Alive {
		t.Fatalf("%v, %+v", err, res)
	}
	// Requests on their way when the process died count as made, and may not have been.
	if again := puts(c); again > all-before+writers || again >= all {
		t.Errorf("%d of %d requests had been made, %d were made again", before, all, again)
	} else {
		t.Logf("%d requests fill the disk; killed after %d, the next process made %d", all, before, again)
	}
	if got := c.Download(t, c.Disks()[0]); string(got[:len(data)]) != string(data) {
		t.Error("the bytes differ")
	}
	if err := run.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	clean(t, c, kept)
}

// leftovers: of a run whose directory is lost everything is found by its tag and removed,
// and nothing else.
func (r rig) leftovers(t *testing.T) {
	c, ctx := r.cloud(t), ctxOf(t)
	cfg := config(c, place(), true)
	var runs []*Run
	for i := range 2 {
		run, err := New(cfg).Start(ctx, machine(content(uint64(20+i), 1<<20)), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := run.Probe(ctx, booted); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run.(*Run))
	}
	all, err := List(ctx, cfg, "")
	if err != nil || len(all) != 10 {
		t.Fatalf("%d resources of two runs: %v", len(all), err)
	}
	lost := runs[0].b.Run
	gone, err := Remove(ctx, cfg, lost)
	if err != nil || len(gone) != 5 || gone[0].Kind != "Microsoft.Compute/virtualMachines" || gone[0].Machine != "web" || !gone[0].Test || gone[0].Began.IsZero() {
		t.Fatalf("%v, %+v", err, gone)
	}
	if all, err = List(ctx, cfg, lost); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if all, err = List(ctx, cfg, ""); err != nil || len(all) != 5 {
		t.Errorf("of the other run: %d, %v", len(all), err)
	}
	if err := runs[1].Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := runs[0].Stop(ctx); err != nil { // it comes back, and finds nothing
		t.Error(err)
	}
	clean(t, c, runs[1].b.dir)
}
