package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// receiver is the least that can stand in for a process server and a vault: it
// follows one disk's chain into memory, sends receipts and answers for sums. It
// can be told to lose links.
type receiver struct {
	t             *testing.T
	b             *bus.Bus
	machine, disk string
	dec           *zstd.Decoder

	mu       sync.Mutex
	epoch    uint64
	last     uint64
	hash     wire.Hash
	base     [2]uint64
	image    map[uint64][]byte
	cuts     map[string][32]byte // point → hash of the image
	opens    []wire.Open
	stamp    int64
	drop     int // links to lose
	loseAt   int // bytes after which one link is lost
	bytes    int // of data blocks received
	again    int // blocks received whose contents were here already
	compared int // blocks whose sums were asked for
	asked    bool
	apps     []map[uint64][]byte // images at application-consistent cuts
	loseOpen bool                // lose the next open and ask for it, naming the epoch before
}

func receive(ctx context.Context, t *testing.T, b *bus.Bus, machine, disk string) *receiver {
	t.Helper()
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{t: t, b: b, machine: machine, disk: disk, dec: dec, image: map[uint64][]byte{}, cuts: map[string][32]byte{}}
	cons, err := b.JS.Consumer(ctx, streams.Changes, streams.PartitionConsumer(streams.Partition(machine, disk)).Durable)
	if err != nil {
		t.Fatal(err)
	}
	cc, err := cons.Consume(func(m jetstream.Msg) { r.take(m.Data()); _ = m.Ack() }, jetstream.PullPriorityGroup(streams.AnyGroup))
	if err != nil {
		t.Fatal(err)
	}
	sub, err := b.Conn.Subscribe(streams.SumsSubject(machine, disk), r.sums)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Stop(); <-cc.Closed(); _ = sub.Unsubscribe(); dec.Close() })
	return r
}

func (r *receiver) take(b []byte) {
	c, err := wire.DecodeChange(b)
	if err != nil {
		r.t.Error(err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rc := &wire.Receipt{Machine: r.machine, Disk: r.disk}
	switch {
	case r.loseOpen && c.Kind == wire.KindOpen:
		r.loseOpen = false
		rc.Resend, rc.Reason, rc.Time = true, "the open is missing", 1
		r.send(rc)
		return
	case r.drop > 0 && c.Kind == wire.KindBlock:
		r.drop--
		return
	case r.loseAt > 0 && r.bytes > r.loseAt && c.Kind == wire.KindBlock:
		r.loseAt = 0
		return
	case c.Kind == wire.KindOpen && c.Epoch > r.epoch:
		r.base = [2]uint64{r.epoch, r.last}
		r.epoch, r.last, r.asked = c.Epoch, 1, false
		r.opens = append(r.opens, *c.Open)
	case c.Epoch != r.epoch || c.Number <= r.last:
		return
	case c.Number != r.last+1 || c.Prev != r.hash:
		if r.asked {
			return
		}
		r.asked = true
		rc.Resend, rc.Reason = true, "gap"
		r.send(rc)
		return
	default:
		r.last = c.Number
		r.apply(c)
	}
	r.hash = wire.LinkHash(c, b)
	r.send(rc)
}

func (r *receiver) apply(c *wire.Change) {
	if c.Cut != nil {
		r.cuts[c.Cut.Point] = r.sum(c.Cut.Size)
		if c.Cut.Consistency == wire.App {
			r.apps = append(r.apps, maps.Clone(r.image)) // blocks are never changed in place
		}
		return
	}
	data := c.Block.Data
	if c.Block.Codec == wire.CodecZstd {
		var err error
		if data, err = r.dec.DecodeAll(data, nil); err != nil {
			r.t.Error(err)
			return
		}
	}
	r.bytes += len(data)
	for _, e := range c.Block.Extents {
		for i := range uint64(e.Count) {
			if e.Kind != wire.ExtentData {
				delete(r.image, e.Start+i)
				continue
			}
			if bytes.Equal(r.image[e.Start+i], data[:wire.BlockSize]) {
				r.again++
			}
			r.image[e.Start+i] = data[:wire.BlockSize:wire.BlockSize]
			data = data[wire.BlockSize:]
		}
	}
}

// sum hashes the image as a disk of size bytes.
func (r *receiver) sum(size uint64) [32]byte {
	h := sha256.New()
	zero := make([]byte, wire.BlockSize)
	for at := uint64(0); at < size; at += wire.BlockSize {
		b := r.image[at/wire.BlockSize]
		if b == nil {
			b = zero
		}
		h.Write(b[:min(wire.BlockSize, size-at)])
	}
	return [32]byte(h.Sum(nil))
}

func (r *receiver) send(rc *wire.Receipt) {
	if r.stamp++; rc.Time == 0 || rc.Resend {
		rc.Time = r.stamp
	}
	rc.Epoch, rc.Number, rc.Hash, rc.BaseEpoch, rc.BaseNumber = r.epoch, r.last, r.hash, r.base[0], r.base[1]
	b, err := wire.Encode(rc)
	if err != nil {
		r.t.Error(err)
		return
	}
	if _, err := r.b.JS.PublishAsync(streams.ReceiptsSubject(r.machine, r.disk), b); err != nil {
		r.t.Log("receipt:", err)
	}
}

func (r *receiver) sums(m *nats.Msg) {
	q, err := wire.DecodeSumsRequest(m.Data)
	if err != nil {
		r.t.Error(err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.compared += int(q.Count)
	rep := &wire.SumsReply{Epoch: r.epoch, Start: q.Start}
	for i := range uint64(q.Count) {
		var s wire.Sum
		if b := r.image[q.Start+i]; b != nil {
			s = wire.SumOf(b)
		}
		rep.Sums = append(rep.Sums, s[:]...)
	}
	b, err := wire.Encode(rep)
	if err != nil {
		r.t.Error(err)
		return
	}
	_ = m.Respond(b)
}

// get runs f under the lock.
func get[T any](r *receiver, f func() T) T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f()
}

// until waits for cond with a deadline.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; {
		if cond() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
