package process

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

func (r *rig) fences() jetstream.KeyValue {
	r.t.Helper()
	kv, err := r.b.JS.KeyValue(background(r.t), streams.Fences)
	if err != nil {
		r.t.Fatal(err)
	}
	return kv
}

func (r *rig) fence(s *Server, f streams.Fence) {
	r.t.Helper()
	b, err := f.Encode()
	if err == nil {
		_, err = r.fences().Put(background(r.t), f.Machine, b)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "the fence to be known", func() bool {
		have := s.fences.of(f.Machine)
		return have != nil && have.Generation == f.Generation && have.Holder == f.Holder
	})
}

func (r *rig) head(a *agent) vault.Position {
	r.t.Helper()
	w, err := r.v.OpenDisk(background(r.t), a.id())
	if err != nil {
		r.t.Fatal(err)
	}
	return w.Head().Position
}

// An agent whose machine was failed over comes back, goes on with its epoch, opens newer
// ones, and is there when the copy writes the disk: nothing of it reaches the vault.
func TestFenceKeepsZombiesOut(t *testing.T) {
	r := newRig(t)
	s := r.server()
	old, other := newAgent(t, r.b, "web1", "sda"), newAgent(t, r.b, "web2", "sda")
	old.publish(old.open("first"), old.write(), old.cut())
	other.publish(other.open("first"), other.write())
	old.settled()
	stood, image := r.head(old), bytes.Clone(old.image)

	r.fence(s, streams.Fence{Machine: "web1", Generation: 1, Why: "it was failed over", Since: time.Now()})
	zombie := func(what string) {
		t.Helper()
		old.publish(old.write(), old.write(), old.cut())
		old.publish(old.newEpoch("restart")...)
		old.publish(old.write(), old.cut())
		r.empty()
		if at := r.head(old); at != stood {
			t.Fatalf("%s: the zombie took the vault from %v to %v", what, stood, at)
		}
		old.compare(r.v, stood, image)
	}
	zombie("fenced")
	if st := s.Stats(); st.Fenced < 7 || st.Malformed != 0 {
		t.Errorf("numbers: %+v", st)
	}
	eventually(t, "an event to tell of it", func() bool {
		all := events(t, r.b)["fenced"]
		return len(all) > 0 && strings.Contains(all[0].What, "it was failed over") && all[0].Machine == "web1"
	})
	// A server that starts later knows it too, and the other machine is free.
	stop(t, s)
	s = r.server()
	zombie("a new server")
	other.publish(other.write(), other.cut())
	other.settled()

	// The copy writes, from the same disk; the zombie goes on all the while.
	copied := newAgent(t, r.b, "web1", "sda")
	copied.image, copied.at, copied.confirmed = bytes.Clone(image), stood, stood
	r.fence(s, streams.Fence{Machine: "web1", Generation: 1, Holder: "copy-web1-1", Why: "it was failed over", Since: time.Now()})
	copied.publish(copied.message(&wire.Change{Open: &wire.Open{Size: uint64(len(image)), Capture: "copy", Instance: "copy-web1-1",
		Reason: "re-protect", MinEpoch: stood.Epoch, MinNumber: stood.Number}}), copied.write())
	old.publish(old.newEpoch("restart")...)
	copied.publish(copied.write(), copied.cut())
	copied.settled()
	stood, image = r.head(old), bytes.Clone(copied.image)
	if stood != copied.at {
		t.Fatalf("the vault is at %v, the copy at %v", stood, copied.at)
	}
	zombie("beside the copy")
	copied.verify(r.v)

	// Home again: the fence is gone, and the agent there takes over.
	if err := r.fences().Delete(background(t), "web1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the fence to be gone", func() bool { return s.fences.of("web1") == nil })
	old.image, old.at, old.prev = image, vault.Position{Epoch: max(old.at.Epoch, stood.Epoch)}, wire.Hash{}
	old.dirty, old.cuts, old.confirmed = map[uint64]vault.Position{}, map[vault.Position][]byte{}, stood
	old.publish(old.newEpoch("home again")...)
	old.publish(old.write(), old.cut())
	old.settled()
	old.verify(r.v)
	r.check()
}

// A fence that cannot be read keeps everybody out, and one whose bucket is lost holds.
func TestFenceHoldsInDoubt(t *testing.T) {
	r := newRig(t)
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write())
	a.settled()
	stood := r.head(a)
	if _, err := r.fences().Put(background(t), "web1", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the fence to be known", func() bool { return s.fences.of("web1") != nil })
	if err := r.b.JS.DeleteKeyValue(background(t), streams.Fences); err != nil {
		t.Fatal(err)
	}
	a.publish(a.write())
	r.empty()
	if at := r.head(a); at != stood {
		t.Errorf("the vault went on from %v to %v", stood, at)
	}
}

// slowBucket is a bus whose bucket of fences is not answered for a few times.
type slowBucket struct {
	jetstream.JetStream
	fails atomic.Int32
	err   error
}

func (b *slowBucket) KeyValue(ctx context.Context, name string) (jetstream.KeyValue, error) {
	if name == streams.Fences && b.fails.Add(-1) >= 0 {
		return nil, b.err
	}
	return b.JetStream.KeyValue(ctx, name)
}

// A bus that does not answer while a server starts is asked again; one that has no bucket,
// or answers never, is not.
func TestStartIsPatient(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		what  string
		fails int32
		err   error
		ok    bool
	}{
		{"no answer, three times", 3, context.DeadlineExceeded, true},
		{"no answer, ever", 1 << 30, context.DeadlineExceeded, false},
		{"no bucket", 1, jetstream.ErrBucketNotFound, false},
	} {
		s := makeServer(t, r.b, r.v, small())
		slow := &slowBucket{JetStream: s.js, err: c.err}
		slow.fails.Store(c.fails)
		s.js = slow
		ctx, cancel := background(t), context.CancelFunc(func() {})
		if c.fails > 3 {
			ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
		}
		err := s.Start(ctx)
		cancel()
		if err == nil {
			stop(t, s)
		}
		if (err == nil) != c.ok || !c.ok && !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestShut(t *testing.T) {
	head := vault.Head{Position: vault.Position{Epoch: 3, Number: 5}, Open: &vault.Open{Instance: "copy"}}
	link := func(epoch, number uint64, instance string) *wire.Change {
		c := &wire.Change{Epoch: epoch, Number: number}
		if instance != "" {
			c.Open = &wire.Open{Instance: instance}
		}
		return c
	}
	for _, c := range []struct {
		what   string
		holder string
		link   *wire.Change
		want   bool
	}{
		{"goes on, nobody may", "", link(3, 6, ""), true},
		{"goes on, the holder", "copy", link(3, 6, ""), false},
		{"goes on, another", "else", link(3, 6, ""), true},
		{"a repeat", "", link(3, 5, ""), false},
		{"an old epoch", "", link(2, 9, ""), false},
		{"opens, nobody may", "", link(4, 1, "copy"), true},
		{"opens, the holder", "copy", link(4, 1, "copy"), false},
		{"opens, another", "copy", link(4, 1, "old"), true},
		{"opens an old epoch", "copy", link(2, 1, "old"), true},
		{"before its open, nobody may", "", link(4, 2, ""), true},
		{"before its open, perhaps the holder's", "copy", link(4, 2, ""), false},
	} {
		got, _ := shut(&streams.Fence{Holder: c.holder}, head, c.link)
		if got != c.want {
			t.Errorf("%s: shut out %v", c.what, got)
		}
		if out, _ := shut(nil, head, c.link); out {
			t.Errorf("%s: shut out without a fence", c.what)
		}
	}
}
