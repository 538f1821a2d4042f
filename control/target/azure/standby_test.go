package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// past is a disk's history. Of the versions before first nothing is known any more.
type past struct {
	all   [][]byte
	first int
}

// change adds a version in which blocks have changed, some to zeros, and returns how many
// bytes those are.
func (p *past) change(seed uint64, blocks int) (changed int64) {
	b, rnd := slices.Clone(p.all[len(p.all)-1]), rand.New(rand.NewPCG(seed, 9))
	for range blocks {
		at := rnd.IntN(len(b)/target.BlockSize) * target.BlockSize
		part := b[at : at+target.BlockSize]
		clear(part)
		if rnd.IntN(4) > 0 {
			for i := range part {
				part[i] = byte(rnd.Uint32())
			}
		}
	}
	for at := 0; at < len(b); at += target.BlockSize {
		end := min(at+target.BlockSize, len(b))
		if !bytes.Equal(b[at:end], p.all[len(p.all)-1][at:end]) {
			changed += int64(end - at)
		}
	}
	p.all = append(p.all, b)
	return changed
}

// then is a disk at a version.
type then struct {
	*targettest.Disk
	p    *past
	n    int
	stop func() // called by reads
}

func (p *past) at(n int) *then { return &then{Disk: targettest.Mem("sda", p.all[n]), p: p, n: n} }
func (p *past) newest() *then  { return p.at(len(p.all) - 1) }

func (d *then) Version() string { return "1/" + strconv.Itoa(d.n) }

func (d *then) ReadAt(b []byte, off int64) (int, error) {
	if d.stop != nil {
		d.stop()
	}
	return d.Disk.ReadAt(b, off)
}

func (d *then) Since(_ context.Context, versions []string, yield func(off, length int64) bool) error {
	differs := map[int]bool{}
	for _, v := range versions {
		n, err := strconv.Atoi(strings.TrimPrefix(v, "1/"))
		if err != nil || n < d.p.first || n >= len(d.p.all) || len(d.p.all[n]) != len(d.p.all[d.n]) {
			return fmt.Errorf("%w: %s", target.ErrNoVersion, v)
		}
		for at := 0; at < len(d.p.all[n]); at += target.BlockSize {
			end := min(at+target.BlockSize, len(d.p.all[n]))
			if !bytes.Equal(d.p.all[n][at:end], d.p.all[d.n][at:end]) {
				differs[at] = true
			}
		}
	}
	for at := 0; at < len(d.p.all[d.n]); at += target.BlockSize {
		if differs[at] && !yield(int64(at), int64(min(target.BlockSize, len(d.p.all[d.n])-at))) {
			return nil
		}
	}
	return nil
}

var webSda = Key{Owner: "a-vault", Machine: "web", Disk: "sda"}

// keeps is a Config with an account whose blobs are kept.
func keeps(c *armtest.Cloud) Config {
	cfg := config(c, place(), true)
	cfg.Owner = webSda.Owner
	return cfg
}

func open(t testing.TB, c *armtest.Cloud, size int) *Kept {
	t.Helper()
	k, err := OpenKept(ctxOf(t), keeps(c), webSda, int64(size))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// holds fails the test unless what is kept is a VHD of b.
func holds(t testing.TB, c *armtest.Cloud, b []byte) {
	t.Helper()
	got := c.InAccount(t, webSda.name())
	size := int(vhdSize(int64(len(b))))
	if len(got) != size+512 || !bytes.Equal(got[:len(b)], b) || len(bytes.Trim(got[len(b):size], "\x00")) > 0 {
		t.Error("what is kept is not the disk")
	}
}

// left lists what is in the cloud but what is kept.
func left(t testing.TB, c *armtest.Cloud) []string {
	return slices.DeleteFunc(c.Left(t), func(s string) bool { return strings.Contains(s, keptPrefix) })
}

// standby: points are followed by their differences; a failover sends the last of these.
func (r rig) standby(t *testing.T) {
	targettest.Need(t, "qemu-img")
	c, ctx := r.cloud(t), ctxOf(t)
	p := &past{all: [][]byte{content(50, 33<<20+1536)}}
	size := len(p.all[0])
	k := open(t, c, size)
	first, err := k.Bring(ctx, p.at(0), "p0", time.Now())
	if err != nil || !first.Whole {
		t.Fatalf("%+v, %v", first, err)
	}
	holds(t, c, p.all[0])
	var sent, changed int64
	for n := range 8 {
		changed += p.change(uint64(n), 80)
		b, err := k.Bring(ctx, p.newest(), "p"+strconv.Itoa(n+1), time.Now())
		if err != nil || b.Whole {
			t.Fatalf("%+v, %v", b, err)
		}
		sent += b.Sent + b.Cleared
		holds(t, c, p.all[n+1])
		if b, err = k.Bring(ctx, p.newest(), "again", time.Now()); err != nil || b != (Brought{}) {
			t.Errorf("what is there is sent again: %+v, %v", b, err)
		}
	}
	t.Logf("the whole disk: %d bytes; 8 points changed %d bytes, %d were sent or cleared", first.Sent, changed, sent)
	if sent != changed {
		t.Errorf("%d bytes were sent, %d changed", sent, changed)
	}
	if err := k.Verify(ctx, p.newest()); err != nil {
		t.Error(err)
	}
	if err := k.Verify(ctx, p.at(3)); err == nil {
		t.Error("it is taken for another point")
	}
	if v, sure := k.Version(); v != "" || sure {
		t.Errorf("it is not what was thought, and is still called %s", v)
	}
	if b, err := k.Bring(ctx, p.newest(), "p8", time.Now()); err != nil || !b.Whole || b.Sent > pageSize {
		t.Errorf("%+v, %v", b, err)
	}
	all, err := ListKept(ctx, keeps(c), webSda.Owner)
	if err != nil || len(all) != 1 || all[0].Key != webSda || all[0].Point != "p8" || !all[0].Sure || all[0].Size != int64(size) || all[0].Time.IsZero() {
		t.Errorf("%+v, %v", all, err)
	}
	if all, err := ListKept(ctx, keeps(c), "another"); err != nil || len(all) != 0 {
		t.Errorf("what another keeps: %+v, %v", all, err)
	}

	last := p.change(99, 60)
	m := &target.Machine{Name: "web", CPUs: 2, Memory: 3 << 30, Firmware: "bios", Disks: []target.Disk{p.newest()}}
	dir := t.TempDir()
	run, err := New(keeps(c)).Start(ctx, m, dir)
	if err != nil {
		t.Fatal(err)
	}
	res, err := run.Probe(ctx, booted)
	if err != nil || !res.Alive {
		t.Fatalf("%v, %+v", err, res)
	}
	t.Log(strings.Join(res.Evidence, "\n"))
	if n := run.(*Run).b.now().Disks[0].Sent; n > last {
		t.Errorf("the failover sent %d bytes, %d had changed", n, last)
	}
	vhd, raw := filepath.Join(t.TempDir(), "a.vhd"), filepath.Join(t.TempDir(), "a.raw")
	want := append(slices.Clone(p.all[9]), make([]byte, int(vhdSize(int64(size)))-size)...)
	if err := errors.Join(os.WriteFile(vhd, c.Download(t, c.Disks()[0]), 0o600), os.WriteFile(raw, want, 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(ctx, "qemu-img", "compare", "-s", "-f", "vpc", "-F", "raw", vhd, raw).CombinedOutput(); err != nil {
		t.Errorf("qemu-img: %v: %s", err, out)
	}
	if _, err := k.Bring(ctx, p.at(0), "", time.Now()); !errors.Is(err, ErrTaken) {
		t.Errorf("who kept it before the failover still writes: %v", err)
	}
	if err := run.Stop(ctx); err != nil {
		t.Error(err)
	}
	if all := left(t, c); len(all) > 0 {
		t.Errorf("left: %v", all)
	}
	if b, err := open(t, c, size).Bring(ctx, p.at(4), "back", time.Now()); err != nil || b.Whole {
		t.Errorf("back to a point: %+v, %v", b, err)
	}
	holds(t, c, p.all[4])
	r.standbyUnknown(t, c, p)
	if err := DropKept(ctx, keeps(c), webSda); err != nil {
		t.Error(err)
	}
	if err := DropKept(ctx, keeps(c), webSda); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	clean(t, c, dir)
}

// standbyUnknown: what nobody can say any more how it differs is compared, not sent.
func (r rig) standbyUnknown(t *testing.T, c *armtest.Cloud, p *past) {
	p.first = 7
	defer func() { p.first = 0 }()
	changed := int64(0)
	for at := 0; at < len(p.all[4]); at += target.BlockSize {
		if end := min(at+target.BlockSize, len(p.all[4])); !bytes.Equal(p.all[4][at:end], p.all[8][at:end]) {
			changed += int64(end - at)
		}
	}
	b, err := open(t, c, len(p.all[0])).Bring(ctxOf(t), p.at(8), "p8", time.Now())
	if err != nil || !b.Whole || b.Read == 0 || b.Sent > changed+pageSize {
		t.Errorf("%+v, %v; %d bytes differ", b, err, changed)
	}
	holds(t, c, p.all[8])
	bigger := append(slices.Clone(p.all[8]), make([]byte, 1<<20)...)
	p.all = append(p.all, bigger)
	if b, err = open(t, c, len(bigger)).Bring(ctxOf(t), p.newest(), "bigger", time.Now()); err != nil || !b.Whole {
		t.Errorf("a disk that has grown: %+v, %v", b, err)
	}
	holds(t, c, bigger)
}

// standbyFaults: each call of following a point fails once, in each of four ways; whoever
// comes next knows what the bytes may be, and makes them those of another point.
func (r rig) standbyFaults(t *testing.T) {
	p := &past{all: [][]byte{content(60, 3<<20)}}
	for n := range 3 {
		p.change(uint64(n), 40)
	}
	prepare := func() *armtest.Cloud {
		c := r.cloud(t)
		if _, err := open(t, c, len(p.all[0])).Bring(ctxOf(t), p.at(0), "p0", time.Now()); err != nil {
			t.Error(err)
		}
		return c
	}
	follow := func(c *armtest.Cloud, n int) error {
		k, err := OpenKept(ctxOf(t), keeps(c), webSda, int64(len(p.all[0])))
		if err == nil {
			_, err = k.Bring(ctxOf(t), p.at(n), "p"+strconv.Itoa(n), time.Now())
		}
		return err
	}
	c := prepare()
	c.At(0, armtest.Good)
	if err := follow(c, 1); err != nil {
		t.Fatal(err)
	}
	calls := c.Calls()
	fates := []armtest.Fate{armtest.Lost, armtest.Busy, armtest.Refused, armtest.Dead}
	full := os.Getenv("LEEWARD_FULL") == "1"
	var some errgroup.Group
	some.SetLimit(atOnce)
	var mu sync.Mutex
	ends := map[armtest.Fate]int{}
	for n := 1; n <= len(calls); n++ {
		for i, fate := range fates {
			if !full && n%len(fates) != i && (fate != armtest.Dead || n%2 == 0) {
				continue
			}
			some.Go(func() error {
				c := prepare()
				c.At(n, fate)
				err := follow(c, 1)
				mu.Lock()
				if err != nil {
					ends[fate]++
				}
				mu.Unlock()
				if err != nil && (fate == armtest.Busy || fate == armtest.Lost) {
					return fmt.Errorf("call %d, %s, was %s, and that was the end: %w", n, calls[n-1], fate, err)
				}
				c.Revive()
				to := 2 + n%2
				if err := follow(c, to); err != nil {
					return fmt.Errorf("after call %d, %s, was %s: %w", n, calls[n-1], fate, err)
				}
				holds(t, c, p.all[to])
				if t.Failed() {
					return fmt.Errorf("after call %d, %s, was %s", n, calls[n-1], fate)
				}
				return nil
			})
		}
	}
	if err := some.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("each of %d calls failed; ended with an error: %v", len(calls), ends)
}

// standbyTwo: of two that keep the same disk only the one that came last writes, also when
// the other is in the middle of it.
func (r rig) standbyTwo(t *testing.T) {
	c, ctx := r.cloud(t), ctxOf(t)
	p := &past{all: [][]byte{content(70, 3<<20)}}
	p.change(1, 60)
	p.change(2, 60)
	size := len(p.all[0])
	old := open(t, c, size)
	if _, err := old.Bring(ctx, p.at(0), "p0", time.Now()); err != nil {
		t.Fatal(err)
	}
	slow, begun, goOn := p.at(1), make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow.stop = func() {
		once.Do(func() { close(begun) })
		<-goOn
	}
	ended := make(chan error, 1)
	go func() {
		_, err := old.Bring(ctx, slow, "p1", time.Now())
		ended <- err
	}()
	select {
	case <-begun:
	case <-ctx.Done():
		t.Fatal("it does not begin")
	}
	if _, err := open(t, c, size).Bring(ctx, p.at(2), "p2", time.Now()); err != nil {
		t.Error(err)
	}
	close(goOn)
	if err := <-ended; !errors.Is(err, ErrTaken) {
		t.Errorf("the first one ends with %v", err)
	}
	holds(t, c, p.all[2])
	held := open(t, c, size)
	if err := held.hold(ctx, "a-run"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKept(ctx, keeps(c), webSda, int64(size)); !errors.Is(err, ErrHeld) {
		t.Errorf("a machine is made of it: %v", err)
	}
	if err := DropKept(ctx, keeps(c), webSda); !errors.Is(err, ErrHeld) {
		t.Errorf("a machine is made of it, and it is removed: %v", err)
	}
	if err := held.release(ctx); err != nil {
		t.Error(err)
	}
	other := webSda
	other.Owner = "another-vault"
	if _, err := OpenKept(ctx, keeps(c), other, int64(size)); err == nil || !strings.Contains(err.Error(), "another vault") {
		t.Errorf("what another vault keeps: %v", err)
	}
}

// standbyFailover: control dies at every call of a failover that is made of what is kept; the
// next one goes on or removes it, and what is kept is of use again.
func (r rig) standbyFailover(t *testing.T) {
	p := &past{all: [][]byte{content(80, 3<<20)}}
	p.change(1, 40)
	p.change(2, 40)
	m := &target.Machine{Name: "web", CPUs: 2, Memory: 3 << 30, Firmware: "bios", Disks: []target.Disk{p.at(1)}}
	prepare := func() *armtest.Cloud {
		c := r.cloud(t)
		if _, err := open(t, c, len(p.all[0])).Bring(ctxOf(t), p.at(0), "p0", time.Now()); err != nil {
			t.Error(err)
		}
		return c
	}
	// flow brings it up and takes it away, in dir.
	flow := func(c *armtest.Cloud, dir string) error {
		run, err := New(keeps(c)).Start(ctxOf(t), m, dir)
		if err != nil {
			return err
		}
		res, err := run.Probe(ctxOf(t), booted)
		if d := run.(*Run).b.now().Disks[0]; err == nil && (!res.Alive || !d.Kept || d.Alone) {
			err = fmt.Errorf("%+v", res)
		}
		if err == nil {
			if b := c.Download(t, c.Disks()[0]); !bytes.Equal(b[:len(p.all[1])], p.all[1]) {
				err = errors.New("the bytes differ")
			}
		}
		run.(*Run).Leave()
		return err
	}
	c := prepare()
	c.At(0, armtest.Good)
	if err := flow(c, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	calls := c.Calls()
	var some errgroup.Group
	some.SetLimit(atOnce)
	step := 3 // which calls
	if os.Getenv("LEEWARD_FULL") == "1" {
		step = 1
	}
	killed := 0
	for n := 1 + len(calls)%step; n <= len(calls); n += step {
		killed++
		some.Go(func() error {
			c, before, dir := prepare(), t.TempDir(), t.TempDir()
			c.OnDeath(func() { keepFiles(t, dir, before) })
			c.At(n, armtest.Dead)
			first := flow(c, before)
			c.Revive()
			if _, err := openBook(dir); n%2 == 0 && first != nil && err == nil {
				if err := flow(c, dir); err != nil {
					return fmt.Errorf("killed at call %d, %s; the next one: %w", n, calls[n-1], err)
				}
			}
			last, err := Adopt(keeps(c), dir)
			if err == nil {
				err = last.Stop(ctxOf(t))
			}
			if err != nil && !errors.Is(err, errNoRun) {
				return fmt.Errorf("killed at call %d, %s; cleaning up: %w", n, calls[n-1], err)
			}
			if all := left(t, c); len(all) > 0 {
				return fmt.Errorf("killed at call %d, %s; left: %v", n, calls[n-1], all)
			}
			k, err := OpenKept(ctxOf(t), keeps(c), webSda, int64(len(p.all[0])))
			if err == nil {
				_, err = k.Bring(ctxOf(t), p.at(2), "p2", time.Now())
			}
			if err != nil {
				return fmt.Errorf("killed at call %d, %s; what is kept is of no use: %w", n, calls[n-1], err)
			}
			holds(t, c, p.all[2])
			return nil
		})
	}
	if err := some.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("killed at %d of %d calls", killed, len(calls))
}

// What is known of the bytes is never guessed, and never takes the program down.
func FuzzContent(f *testing.F) {
	f.Add("v", "web", "sda", "1048576", "1/2", "1/3,1/4", "0-1000,2000-3000", "2026-11-30T20:00:00Z")
	f.Fuzz(func(t *testing.T, owner, machine, disk, size, at, going, doubt, when string) {
		m := map[string]*string{}
		for k, v := range map[string]string{"owner": owner, "machine": machine, "disk": disk, "size": size, "at": at, "going": going, "doubt": doubt, "time": when} {
			if v != "" {
				m["Leeward"+k] = &v
			}
		}
		c, err := parseContent(m)
		if err != nil {
			return
		}
		again, err := parseContent(c.metadata())
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		var was, is spans
		for _, x := range c.Doubt {
			was.add(x.off, x.end)
		}
		for _, x := range again.Doubt {
			is.add(x.off, x.end)
		}
		for _, x := range was.list() {
			if rest := x.without(is.list()); len(rest) > 0 {
				t.Fatalf("%v is not in doubt any more", rest)
			}
		}
		if again.At != c.At || again.Size != c.Size || !slices.Equal(again.Going, c.Going) {
			t.Fatalf("%+v became %+v", c, again)
		}
	})
}

var _ io.ReaderAt = (*then)(nil)
