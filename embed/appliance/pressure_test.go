package appliance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/fx"

	leewardagent "github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/consumers"
	"github.com/leeward-dr/leeward/consumers/process"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams/wire"
)

// patience is for conditions on a busy machine.
const patience = 2 * time.Minute

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); pause(t) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// squeezed is an appliance with small budgets whose store does as it is told.
type squeezed struct {
	t      *testing.T
	dir    string
	server *process.Server
	client *api.Client
	fault  atomic.Pointer[func(storetest.Op) storetest.Fault]
}

const (
	squeezedStream = 64 << 20
	squeezedMemory = 64 << 20
)

func squeeze(t *testing.T) *squeezed {
	t.Helper()
	q := &squeezed{t: t, dir: t.TempDir()}
	c := config(t, q.dir)
	c.ChangesBytes = squeezedStream
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	faulty := func(v *vault.Vault) (*vault.Vault, error) {
		key, err := vault.KeyFromFile(c.KeyFile)
		if err != nil {
			return nil, err
		}
		return vault.Unlock(t.Context(), storetest.NewFaulty(v.Store(), func(op storetest.Op) storetest.Fault {
			if f := q.fault.Load(); f != nil {
				return (*f)(op)
			}
			return storetest.Fault{}
		}), key)
	}
	small := func(c consumers.Config) consumers.Config {
		c.MemoryBytes = squeezedMemory
		return c
	}
	var o opened
	app := fx.New(options(c, "1.0.0", log, &o), fx.Decorate(faulty, small), fx.Populate(&q.server))
	if err := app.Err(); err != nil {
		t.Fatal(err, o.undo())
	}
	if err := start(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	b := connect(t, q.dir, "admin")
	q.client = api.NewClient(b.Conn)
	t.Cleanup(func() {
		b.Close()
		q.fault.Store(nil)
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		if err := app.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return q
}

// store decides what becomes of puts whose keys contain a word; nil for no faults.
func (q *squeezed) store(word string, f storetest.Fault) {
	decide := func(op storetest.Op) storetest.Fault {
		if op.Verb == "put" && strings.Contains(op.Key, word) {
			return f
		}
		return storetest.Fault{}
	}
	q.fault.Store(&decide)
}

// protect runs a real agent for a new image of zeros until the end of the test.
func (q *squeezed) protect(machine string, size int64) (image string) {
	t := q.t
	image = filepath.Join(t.TempDir(), machine+".img")
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg := leewardagent.Default()
	cfg.Machine, cfg.Disks = machine, []leewardagent.DiskConfig{{Path: image, Name: "sda"}}
	cfg.Capture, cfg.StateDir, cfg.Interval = "scan", t.TempDir(), 300*time.Millisecond
	cfg.GuardCommand = []string{os.Args[0], "guard"} // nothing is mounted, so nothing freezes
	b := connect(t, q.dir, "agent")
	a, err := leewardagent.New(t.Context(), cfg, b, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent of %s: %v", machine, err)
		}
		a.Close()
		b.Close()
	})
	return image
}

// scribble writes noise into an image.
func scribble(t *testing.T, image string, off, n int64, seed uint64) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	r := rand.NewChaCha8(s)
	buf := make([]byte, min(n, 1<<20))
	for end := off + n; off < end; off += int64(len(buf)) {
		r.Read(buf)
		if _, err := f.WriteAt(buf, off); err != nil {
			t.Fatal(err)
		}
	}
}

// latest is the newest point of a machine whose cut is after a time, nil if none is
// listed.
func (q *squeezed) latest(machine string, after time.Time) *api.Point {
	all, err := q.client.Points(q.t.Context(), api.Query{Machine: machine, Since: after})
	if err != nil || len(all) == 0 {
		return nil // control may be asked too early; the caller asks again
	}
	return &all[len(all)-1]
}

func (q *squeezed) status() *api.Status {
	q.t.Helper()
	st, err := q.client.Status(q.t.Context())
	if err != nil {
		q.t.Fatal(err)
	}
	return st
}

// holds compares what the vault shows of a machine's disk at a point with its image,
// which nobody writes to any more.
func (q *squeezed) holds(p *api.Point, image string) {
	t := q.t
	t.Helper()
	want, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	key, err := vault.KeyFromFile(filepath.Join(q.dir, "keys", "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := vault.OpenStore(filepath.Join(q.dir, "vault"), false)
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Unlock(t.Context(), st, key)
	if err != nil {
		t.Fatal(err)
	}
	m := p.Machines[0]
	r, err := v.OpenAt(t.Context(), vault.DiskID{Machine: m.Machine, Disk: "sda"}, vault.Position{Epoch: m.Disks[0].Epoch, Number: m.Disks[0].Number}, vault.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, r.Size())
	if _, err := r.ReadAt(got, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("point %s of %s is not what the disk was", p.ID, m.Machine)
	}
}

// machines are those beside the huge one.
func (q *squeezed) machines(n int) (names, images []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("small%d", i))
		images = append(images, q.protect(names[i], 64*wire.BlockSize))
	}
	return names, images
}

// heapNow is what objects take after a collection.
func heapNow() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// One huge disk whose part of the vault takes nothing, beside many small ones: it
// fills its part of the bus and waits, the others go on. Then the whole store is away
// for longer than all budgets last, and slow when it comes back: memory stays within
// the budgets, what waits and why can be seen, and everything is in the vault in the
// end.
func TestPressure(t *testing.T) {
	t.Parallel()
	const huge = 40 << 20
	q := squeeze(t)
	names, images := q.machines(3)
	big := q.protect("huge", huge)
	all, allImages := append([]string{"huge"}, names...), append([]string{big}, images...)
	for _, m := range all {
		eventually(t, "a first point of "+m, func() bool { return q.latest(m, time.Unix(0, 0)) != nil })
	}
	before := heapNow()

	q.store("disks/huge/", storetest.Fault{Err: store.ErrBusy})
	scribble(t, big, 0, huge, 1)
	eventually(t, "the huge disk to be refused by the bus", func() bool {
		m, err := q.client.Machine(t.Context(), "huge")
		return err == nil && strings.Contains(fmt.Sprint(m.Issues), "bus-refuses") && m.Agent.WaitingBytes > 0
	})
	if n := q.status().BacklogBytes; n > squeezedStream/2 {
		t.Errorf("one disk holds %d of %d bytes of the bus", n, squeezedStream)
	}
	for i, m := range names {
		scribble(t, images[i], 0, wire.BlockSize, uint64(i))
		at := time.Now()
		eventually(t, "a point of "+m+" beside the huge disk", func() bool { return q.latest(m, at) != nil })
	}

	q.store("", storetest.Fault{Err: store.ErrAway})
	for i := range names {
		scribble(t, images[i], 4*wire.BlockSize, 8*wire.BlockSize, uint64(i))
	}
	eventually(t, "the store's failure to be told", func() bool { return strings.Contains(fmt.Sprint(q.status().Issues), "store-failed") })
	eventually(t, "changes of all to wait", func() bool {
		st := q.server.Stats()
		for _, m := range all {
			if st.Disks[m+"/sda"].Pending == 0 {
				return false
			}
		}
		return st.Store != ""
	})
	eventually(t, "what waits to be seen", func() bool { // agents tell of it now and then
		st := q.status()
		return st.WorstRPO != nil && st.BacklogBytes > 0 && st.WaitingBytes > 0
	})
	if mem := q.server.Stats().MemoryBytes; mem > squeezedMemory {
		t.Errorf("the process server holds %d bytes, its budget is %d", mem, squeezedMemory)
	}
	// Links that wait, what is fetched ahead, windows of agents, buffers of the bus.
	if grown := int64(heapNow()) - int64(before); grown > squeezedMemory+192<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}

	q.store("", storetest.Fault{Delay: 5 * time.Millisecond}) // slow
	back := time.Now()
	for i, m := range all {
		var p *api.Point
		eventually(t, "a point of "+m+" when the store is back", func() bool { p = q.latest(m, back); return p != nil })
		q.holds(p, allImages[i])
	}
	eventually(t, "the bus to be empty", func() bool {
		st := q.status()
		return st.BacklogMessages < 64 && !strings.Contains(fmt.Sprint(st.Issues), "store-failed")
	})
}
