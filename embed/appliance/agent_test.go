package appliance

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

const blocks = 64 // of the disk that the small agent protects

// agent is the smallest agent there can be: it writes a chain of its own over the
// agent's connection file, with the agent's rights.
type agent struct {
	t      *testing.T
	dir    string
	number uint64
	hash   wire.Hash
	image  []byte
	points []string
	images map[string][]byte // of the disk at each point
	outbox []message         // made, not yet on the bus
}

type message struct {
	subject, id string
	payload     []byte
}

func newAgent(t *testing.T, dir string) *agent {
	return &agent{t: t, dir: dir, image: make([]byte, blocks*wire.BlockSize), images: map[string][]byte{}}
}

// connect connects with a role's context; it tries until the appliance is up.
func connect(t *testing.T, dir, role string) *bus.Bus {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		b, err := bus.Connect(t.Context(), bus.Options{Context: filepath.Join(dir, "contexts", role+".json")})
		if err == nil {
			return b
		}
		if time.Now().After(end) {
			t.Fatalf("connect as %s: %v", role, err)
		}
		pause(t)
	}
}

func pause(t *testing.T) {
	select {
	case <-time.After(20 * time.Millisecond):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// point changes a block, cuts, and makes the marker.
func (a *agent) point() {
	a.t.Helper()
	if a.number == 0 {
		a.link(&wire.Change{Kind: wire.KindOpen, Open: &wire.Open{Size: uint64(len(a.image)), Capture: "test", Guarantee: "none", Reason: "first"}})
	}
	n := len(a.points)
	block := uint64(n*7) % blocks
	data := bytes.Repeat([]byte{byte(n + 1)}, wire.BlockSize)
	copy(a.image[block*wire.BlockSize:], data)
	sum := wire.SumOf(data)
	a.link(&wire.Change{Kind: wire.KindBlock, Block: &wire.Block{
		Raw: wire.BlockSize, Extents: []wire.Extent{{Start: block, Count: 1}}, Sums: sum[:], Data: data,
	}})
	id := fmt.Sprintf("p%04d", n)
	now := time.Now().UnixNano()
	a.link(&wire.Change{Kind: wire.KindCut, Cut: &wire.Cut{Point: id, Group: "web", Time: now, Consistency: wire.Crash, Size: uint64(len(a.image))}})
	m, err := wire.Encode(&wire.Marker{ID: id, Group: "web", Time: now, Consistency: wire.Crash, Members: []wire.Member{{
		Machine: "web", Facts: wire.Facts{Host: "web", CPUs: 1, Memory: 1 << 28, Firmware: "bios"},
		Disks: []wire.DiskCut{{Disk: "sda", Epoch: 1, Number: a.number, Size: uint64(len(a.image))}},
	}}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.outbox = append(a.outbox, message{streams.MarkersSubject("web"), "marker-" + id, m})
	a.points = append(a.points, id)
	a.images[id] = bytes.Clone(a.image)
}

func (a *agent) link(c *wire.Change) {
	a.t.Helper()
	a.number++
	c.Machine, c.Disk, c.Epoch, c.Number, c.Prev, c.Time = "web", "sda", 1, a.number, a.hash, time.Now().UnixNano()
	p, err := wire.Encode(c)
	if err != nil {
		a.t.Fatal(err)
	}
	a.hash = wire.LinkHash(c, p)
	a.outbox = append(a.outbox, message{streams.ChangesSubject("web", "sda"), wire.MsgID(c), p})
}

// send publishes the outbox, as often as a busy machine needs it.
func (a *agent) send(b *bus.Bus) {
	a.t.Helper()
	for end := time.Now().Add(patience); ; pause(a.t) {
		err := a.flush(b)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			a.t.Fatal(err)
		}
	}
}

// flush publishes the outbox in order. What fails stays in it.
func (a *agent) flush(b *bus.Bus) error {
	for len(a.outbox) > 0 {
		m := a.outbox[0]
		ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Second)
		_, err := b.JS.Publish(ctx, m.subject, m.payload, jetstream.WithMsgID(m.id), jetstream.WithRetryAttempts(0))
		cancel()
		if err != nil {
			return err
		}
		a.outbox = a.outbox[1:]
	}
	return nil
}

// listed waits until control lists all points of the agent, in order.
func (a *agent) listed() {
	a.t.Helper()
	b := connect(a.t, a.dir, "admin")
	defer b.Close()
	c := api.NewClient(b.Conn)
	var got []string
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); pause(a.t) {
		var all []api.Point
		if all, err = c.Points(a.t.Context(), api.Query{}); err != nil {
			continue // it is just starting
		}
		got = nil
		for _, p := range all {
			got = append(got, p.ID)
		}
		if fmt.Sprint(got) == fmt.Sprint(a.points) {
			return
		}
	}
	a.t.Fatalf("listed are %v, want %v; %v", got, a.points, err)
}
