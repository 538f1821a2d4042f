package session

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that the test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func open(t *testing.T) (*Service, *clock, context.Context) {
	t.Helper()
	b := streamstest.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	c := &clock{at: time.Date(2026, 11, 30, 2, 0, 0, 0, time.UTC)}
	s := New(b.JS, c.now)
	s.cost = cost{Time: 1, Memory: 64, Threads: 1}
	return s, c, ctx
}

func TestACodeLetsInOnce(t *testing.T) {
	t.Parallel()
	s, c, ctx := open(t)
	l, err := s.NewLogin(ctx, "root@dr", trust.Tester)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	got := make([]*Session, 8)
	for i := range got {
		wg.Go(func() {
			k, err := s.Redeem(ctx, l.Code)
			if err != nil && !errors.Is(err, ErrRefused) {
				t.Error(err)
			}
			got[i] = k
		})
	}
	wg.Wait()
	var k *Session
	for _, g := range got {
		if g == nil {
			continue
		}
		if k != nil {
			t.Fatal("two were let in with one code")
		}
		k = g
	}
	if k == nil || k.Name != "root@dr" || k.Role != trust.Tester || k.Secret == "" {
		t.Fatalf("%+v", k)
	}
	who, err := s.Check(ctx, k.Secret)
	if err != nil || who.Name != "root@dr" || who.Role != trust.Tester || who.Secret != "" {
		t.Fatalf("%+v, %v", who, err)
	}
	c.add(Life)
	if _, err := s.Check(ctx, k.Secret); !errors.Is(err, ErrRefused) {
		t.Errorf("after its life: %v", err)
	}
	c.add(-Life)
	if err := s.End(ctx, k.Secret); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Check(ctx, k.Secret); !errors.Is(err, ErrRefused) {
		t.Errorf("after its end: %v", err)
	}
	if err := s.End(ctx, k.Secret); err != nil {
		t.Errorf("ended twice: %v", err)
	}
	late, err := s.NewLogin(ctx, "root@dr", trust.Viewer)
	if err != nil {
		t.Fatal(err)
	}
	c.add(CodeLife)
	for what, code := range map[string]string{"late": late.Code, "none": "", "another": "ABC", "long": strings.Repeat("x", 1000), "a session": k.Secret} {
		if _, err := s.Redeem(ctx, code); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Nothing in the buckets opens a door.
func TestNoSecretIsStored(t *testing.T) {
	t.Parallel()
	s, _, ctx := open(t)
	const password = "correct horse battery"
	if _, err := s.SetUser(ctx, "alice", trust.Operator, password, "root"); err != nil {
		t.Fatal(err)
	}
	k, err := s.Password(ctx, "alice", password)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.NewLogin(ctx, "bob", trust.Viewer)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, bucket := range []string{streams.Logins, streams.Users} {
		kv, err := s.js.KeyValue(ctx, bucket)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := kv.Keys(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			e, err := kv.Get(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			n++
			for what, secret := range map[string]string{"password": password, "session": k.Secret, "code": l.Code} {
				if strings.Contains(key+string(e.Value()), secret) {
					t.Errorf("the %s is in bucket %s", what, bucket)
				}
			}
		}
	}
	if n != 3 {
		t.Errorf("%d entries were looked at, want 3", n)
	}
	users, err := s.Users(ctx)
	if b, _ := json.Marshal(users); err != nil || len(users) != 1 || strings.Contains(string(b), "hash") || strings.Contains(string(b), "salt") {
		t.Errorf("%s, %v", b, err)
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	s, c, ctx := open(t)
	const password = "correct horse battery"
	for what, f := range map[string]func() (*User, error){
		"short": func() (*User, error) { return s.SetUser(ctx, "alice", trust.Viewer, "short", "") },
		"long":  func() (*User, error) { return s.SetUser(ctx, "alice", trust.Viewer, strings.Repeat("x", 300), "") },
		"role":  func() (*User, error) { return s.SetUser(ctx, "alice", trust.Control, password, "") },
		"name":  func() (*User, error) { return s.SetUser(ctx, "a.b >", trust.Viewer, password, "") },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if _, err := s.SetUser(ctx, "alice", trust.Viewer, password, "root"); err != nil {
		t.Fatal(err)
	}
	for range freeTries {
		if _, err := s.Password(ctx, "alice", "wrong horse battery"); !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
	}
	if w, ok := errors.AsType[*ErrWait](errOf(s.Password(ctx, "alice", password))); !ok || w.For <= 0 {
		t.Error("after wrong passwords the right one is tried at once")
	}
	if _, err := s.Password(ctx, "mallory", password); !errors.Is(err, ErrRefused) {
		t.Errorf("nobody: %v", err)
	}
	c.add(maxWait)
	k, err := s.Password(ctx, "alice", password)
	if err != nil || k.Role != trust.Viewer || k.By != "password" {
		t.Fatalf("%+v, %v", k, err)
	}
	if _, err := s.SetUser(ctx, "alice", trust.Operator, password, "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Check(ctx, k.Secret); !errors.Is(err, ErrRefused) {
		t.Errorf("the session of a user that was changed goes on: %v", err)
	}
	if k, err = s.Password(ctx, "alice", password); err != nil || k.Role != trust.Operator {
		t.Fatalf("%+v, %v", k, err)
	}
	if err := s.RemoveUser(ctx, "alice"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Check(ctx, k.Secret); !errors.Is(err, ErrRefused) {
		t.Errorf("the session of a user that was removed goes on: %v", err)
	}
	if err := s.RemoveUser(ctx, "alice"); !errors.Is(err, ErrUnknown) {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := s.Password(ctx, "alice", password); !errors.Is(err, ErrRefused) {
		t.Errorf("a user that was removed: %v", err)
	}
}

func errOf[T any](_ T, err error) error { return err }

// What a bucket can make us spend is bounded.
func TestADamagedEntryIsNotTried(t *testing.T) {
	t.Parallel()
	s, _, ctx := open(t)
	_, users, err := s.buckets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(storedUser{User: User{Name: "alice", Role: trust.Viewer}, Cost: cost{Time: 1 << 30, Memory: 1 << 31, Threads: 1}, Hash: make([]byte, 32)})
	if err == nil {
		_, err = users.Put(ctx, "alice", b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Password(ctx, "alice", "correct horse battery"); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v", err)
	}
}
