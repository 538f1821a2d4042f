package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// quick gives the bucket a TTL that a test can wait for.
func quick(t *testing.T, js jetstream.JetStream, ttl time.Duration) jetstream.KeyValue {
	t.Helper()
	kv, err := js.CreateOrUpdateKeyValue(within(t), jetstream.KeyValueConfig{Bucket: streams.Leases, TTL: ttl, Storage: jetstream.FileStorage})
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func holder(name string) bus.Holder {
	return bus.Holder{Instance: name, Host: "host-of-" + name, PID: 4711, Since: time.Unix(1_700_000_000, 0)}
}

func acquire(t *testing.T, js jetstream.JetStream, name string, o bus.LeaseOptions) *bus.Lease {
	t.Helper()
	l, err := bus.AcquireLease(within(t), js, "db-1", "vda", holder(name), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Release(within(t)) })
	return l
}

// unhurried tries with a TTL and, where that was too short for a busy machine, with longer
// ones: what a lease does not do, it does not do with any.
func unhurried(t *testing.T, ttl time.Duration, try func(t *testing.T, ttl time.Duration) error) {
	t.Helper()
	err := try(t, ttl)
	for range 2 {
		if err == nil {
			return
		}
		t.Logf("with a TTL of %v: %v", ttl, err)
		ttl *= 5
		err = try(t, ttl)
	}
	if err != nil {
		t.Fatalf("with a TTL of %v: %v", ttl, err)
	}
}

func lost(l *bus.Lease) bool {
	select {
	case <-l.Lost():
		return true
	default:
		return false
	}
}

func TestLeaseIsExclusive(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	a := acquire(t, s.Bus().JS, "a", bus.LeaseOptions{})
	_, err := bus.AcquireLease(within(t), s.Connect("b").JS, "db-1", "vda", holder("b"), bus.LeaseOptions{})
	var held *bus.HeldError
	if !errors.Is(err, bus.ErrHeld) || !errors.As(err, &held) || held.Holder.Instance != "a" {
		t.Fatalf("%v", err)
	}
	for _, w := range []string{"disk vda of db-1", "process 4711 on host-of-a", "instance a", "2023-11-14", "take over"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error lacks %q: %v", w, err)
		}
	}
	// Another disk is another lease; the same instance may ask again.
	other, err := bus.AcquireLease(within(t), s.Bus().JS, "db-1", "vdb", holder("b"), bus.LeaseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := a.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	acquire(t, s.Bus().JS, "b", bus.LeaseOptions{})
	if lost(a) {
		t.Error("a released lease counts as lost")
	}
}

func TestLeaseOneWinner(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	var wins, refused atomic.Int32
	var wg sync.WaitGroup
	leases := make([]*bus.Lease, 8)
	for i := range leases {
		wg.Go(func() {
			l, err := bus.AcquireLease(within(t), s.Bus().JS, "db-1", "vda", holder(fmt.Sprint(i)), bus.LeaseOptions{})
			switch {
			case err == nil:
				wins.Add(1)
				leases[i] = l
			case errors.Is(err, bus.ErrHeld):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wins.Load() != 1 || refused.Load() != 7 {
		t.Fatalf("%d won, %d were refused", wins.Load(), refused.Load())
	}
	for _, l := range leases {
		if l != nil {
			if err := l.Release(within(t)); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestLeaseTakenOver(t *testing.T) {
	t.Parallel()
	unhurried(t, 600*time.Millisecond, takenOver)
}

func takenOver(t *testing.T, ttl time.Duration) error {
	s := streamstest.StartWith(t, t.TempDir())
	quick(t, s.Bus().JS, ttl)
	a := acquire(t, s.Bus().JS, "a", bus.LeaseOptions{})
	b := acquire(t, s.Bus().JS, "b", bus.LeaseOptions{TakeOver: true})
	select {
	case <-a.Lost():
	case <-within(t).Done():
		t.Fatal("the old holder did not notice")
	}
	if a.LostTo().Instance != "b" {
		t.Errorf("lost to %+v", a.LostTo())
	}
	// The loser's release leaves the winner's lease alone.
	if err := a.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	if c, err := bus.AcquireLease(within(t), s.Bus().JS, "db-1", "vda", holder("c"), bus.LeaseOptions{}); !errors.Is(err, bus.ErrHeld) {
		if err == nil {
			_ = c.Release(within(t))
		}
		return fmt.Errorf("a third was not refused: %v", err)
	}
	if lost(b) {
		return errors.New("the winner lost it")
	}
	return nil
}

// The holder that is surely dead is not waited for.
func TestLeaseOfTheDead(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	acquire(t, s.Bus().JS, "a", bus.LeaseOptions{})
	var asked bus.Holder
	acquire(t, s.Bus().JS, "b", bus.LeaseOptions{Alive: func(h bus.Holder) bool { asked = h; return false }})
	if asked.Instance != "a" || asked.PID != 4711 {
		t.Errorf("asked about %+v", asked)
	}
}

// A holder that vanished is waited for no longer than the TTL; one that renews
// keeps the lease for many TTLs.
func TestLeaseExpires(t *testing.T) {
	t.Parallel()
	unhurried(t, 450*time.Millisecond, expires)
}

func expires(t *testing.T, ttl time.Duration) error {
	s := streamstest.StartWith(t, t.TempDir())
	kv := quick(t, s.Bus().JS, ttl)
	a := acquire(t, s.Bus().JS, "a", bus.LeaseOptions{})
	first, err := kv.Get(within(t), streams.LeaseKey("db-1", "vda"))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(4 * ttl); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if b, err := bus.AcquireLease(within(t), s.Bus().JS, "db-1", "vda", holder("b"), bus.LeaseOptions{}); !errors.Is(err, bus.ErrHeld) {
			if err == nil {
				_ = b.Release(within(t))
			}
			return fmt.Errorf("a lease that is renewed was had: %v", err)
		}
	}
	last, err := kv.Get(within(t), streams.LeaseKey("db-1", "vda"))
	if err != nil || last.Revision() <= first.Revision() {
		return fmt.Errorf("not renewed: %v", err)
	}
	if err := a.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	// A vanished holder: the key as it would leave it, renewed by nobody.
	if _, err := kv.Put(within(t), streams.LeaseKey("db-1", "vda"), last.Value()); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	eventually(t, "the lease expires", func() bool {
		l, err := bus.AcquireLease(within(t), s.Bus().JS, "db-1", "vda", holder("b"), bus.LeaseOptions{})
		if err == nil {
			_ = l.Release(within(t))
		}
		return err == nil
	})
	if took := time.Since(start); took < ttl/3 || took > 10*ttl {
		return fmt.Errorf("it took %v", took)
	}
	return nil
}

// A server that was away, or forgot the lease, does not make the holder lose it.
func TestLeaseOutlivesTheServer(t *testing.T) {
	t.Parallel()
	const ttl = 450 * time.Millisecond
	s := streamstest.StartWith(t, t.TempDir())
	kv := quick(t, s.Bus().JS, ttl)
	key := streams.LeaseKey("db-1", "vda")
	a := acquire(t, s.Bus().JS, "a", bus.LeaseOptions{})
	s.Kill()
	gone := time.Now()
	eventually(t, "the lease would have expired", func() bool { return time.Since(gone) > 2*ttl })
	s.Restart()
	held := func() bool {
		e, err := kv.Get(within(t), key)
		return err == nil && strings.Contains(string(e.Value()), `"instance":"a"`)
	}
	eventually(t, "it is renewed after the restart", held)
	if err := kv.Purge(within(t), key); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is renewed after it was forgotten", held)
	if lost(a) {
		t.Error("lost without a new holder")
	}
}

func TestLeaseBadInput(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	for _, c := range []struct {
		machine, disk string
		h             bus.Holder
	}{{"db-1", "vda", bus.Holder{}}, {"", "vda", holder("a")}, {"db-1", "a.b", holder("a")}} {
		if l, err := bus.AcquireLease(within(t), s.Bus().JS, c.machine, c.disk, c.h, bus.LeaseOptions{}); err == nil {
			_ = l.Release(within(t))
			t.Errorf("%+v was had", c)
		}
	}
	// What somebody else put there counts as held, it is not an error to decode.
	kv := quick(t, s.Bus().JS, time.Minute)
	if _, err := kv.PutString(within(t), streams.LeaseKey("db-1", "vda"), "hands off"); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.AcquireLease(within(t), s.Bus().JS, "db-1", "vda", holder("a"), bus.LeaseOptions{}); !errors.Is(err, bus.ErrHeld) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := bus.AcquireLease(ctx, s.Bus().JS, "db-1", "vdb", holder("a"), bus.LeaseOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := s.Bus().JS.DeleteKeyValue(within(t), streams.Leases); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.AcquireLease(within(t), s.Bus().JS, "db-1", "vda", holder("a"), bus.LeaseOptions{}); err == nil || !strings.Contains(err.Error(), streams.Leases) {
		t.Errorf("%v", err)
	}
}

func TestAlive(t *testing.T) {
	me := bus.ThisProcess("me")
	if me.PID != os.Getpid() || me.Host == "" || me.Scope == "" || me.Started == 0 || !bus.Alive(me) {
		t.Fatalf("this process is %+v", me)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := me
	child.PID, child.Started = cmd.Process.Pid, 0
	if !bus.Alive(child) {
		t.Error("a running process counts as dead")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// A zombie until it is waited for: it will never renew a lease.
	eventually(t, "the killed process counts as dead", func() bool { return !bus.Alive(child) })
	_ = cmd.Wait()
	if bus.Alive(child) {
		t.Error("a process that is gone counts as alive")
	}
	reused := me
	reused.Started++
	if bus.Alive(reused) {
		t.Error("another process under the same number counts as the holder")
	}
	for _, h := range []bus.Holder{{}, {PID: 1 << 30}, {PID: 1 << 30, Scope: "another boot"}} {
		if !bus.Alive(h) {
			t.Errorf("%+v cannot be known to be dead", h)
		}
	}
}

// A role is one process's at a time, and not for longer than it can be renewed.
func TestRole(t *testing.T) {
	t.Parallel()
	unhurried(t, 600*time.Millisecond, role)
}

func role(t *testing.T, ttl time.Duration) error {
	s := streamstest.StartWith(t, t.TempDir())
	if _, err := s.Bus().JS.CreateOrUpdateKeyValue(within(t), jetstream.KeyValueConfig{Bucket: streams.Roles, TTL: ttl, Storage: jetstream.FileStorage}); err != nil {
		t.Fatal(err)
	}
	a, err := bus.AcquireRole(within(t), s.Bus().JS, "control", holder("a"), bus.LeaseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := bus.AcquireRole(within(t), s.Bus().JS, "control", holder("b"), bus.LeaseOptions{}); !errors.Is(err, bus.ErrHeld) || !strings.Contains(err.Error(), "role control") {
		if err == nil {
			_ = b.Release(within(t))
		}
		return errors.Join(fmt.Errorf("a second was not refused: %v", err), a.Release(within(t)))
	}
	if lost(a) {
		return errors.Join(errors.New("lost while renewed"), a.Release(within(t)))
	}
	s.Kill() // nobody can be asked
	select {
	case <-a.Lost():
	case <-within(t).Done():
		t.Fatal("a role that cannot be renewed is kept")
	}
	s.Restart()
	eventually(t, "another to get the role", func() bool {
		b, err := bus.AcquireRole(within(t), s.Bus().JS, "control", holder("b"), bus.LeaseOptions{})
		if err == nil {
			_ = b.Release(within(t))
		}
		return err == nil
	})
	return a.Release(within(t))
}
