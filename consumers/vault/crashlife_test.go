package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/dir"
)

// What TestLifeKilled's child does: writes, points, folding, pruning and pins, over
// and over. A disk after n links has the same content whoever computes it.
const (
	lifeLinks = 24
	lifeSize  = 40 * BlockSize
)

func lifeFrame(link uint64) (uint64, []byte) { return link * 7 % 30, text(10, link) }

func lifeDisk(links uint64) []byte {
	disk := make([]byte, lifeSize)
	for n := uint64(1); n <= links; n++ {
		start, data := lifeFrame(n)
		copy(disk[start*BlockSize:], data)
	}
	return disk
}

// live goes on with the life of a vault, and calls safe with each point that it was
// told is listed.
func live(ctx context.Context, st store.Store, safe func(point string)) error {
	v, err := Unlock(ctx, st, testKey)
	if errors.Is(err, ErrNotVault) {
		v, err = Create(ctx, st, testKey)
	}
	if err != nil {
		return err
	}
	v.fan = 2
	w, err := v.OpenDisk(ctx, testDisk)
	if err != nil {
		return err
	}
	for w.Head().Number < lifeLinks {
		h := w.Head()
		n := h.Number + 1
		start, data := lifeFrame(n)
		f := frame(CodecZstd, write{start, 10, data})
		b := &Batch{Epoch: 1, First: n, Last: n, Prev: h.Hash, Hash: hashAt(1, n, 0), Frames: []Frame{f}}
		if n == 1 {
			b = opening(1, lifeSize, f)
		}
		if h, err = w.Commit(ctx, cutAt(b, lifeSize)); err != nil {
			return err
		}
		p := &Point{
			ID: fmt.Sprint("p", n), Group: "g", Time: b.Cut.Time, Consistency: "crash",
			Machines: []PointMachine{{Machine: testDisk.Machine, Disks: []PointDisk{{Disk: testDisk.Disk, At: h.Position, Size: lifeSize, Digest: h.Digest}}}},
		}
		if err := v.PutPoint(ctx, p); err != nil {
			return err
		}
		safe(p.ID)
		if n%8 == 3 {
			if err := v.Pin(ctx, p.ID, "pinned"); err != nil && !errors.Is(err, ErrExists) {
				return err
			}
		}
		if n%6 == 0 {
			if _, err := v.Maintain(ctx, now(keepers)); err != nil {
				return err
			}
			if err := w.Reload(ctx); err != nil {
				return err
			}
		}
	}
	_, err = v.Maintain(ctx, now(keepers))
	return err
}

// lifeHolds makes sure that the vault is sound, that every listed point restores, that
// none is missing at the end of those which were called safe (the newest is always
// kept), and that pinned ones are there.
func lifeHolds(t *testing.T, st store.Store, safe []string) {
	t.Helper()
	v, err := Unlock(t.Context(), st, testKey)
	if errors.Is(err, ErrNotVault) && len(safe) == 0 {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	wantClean(t, v)
	points, bad, err := v.Points(t.Context(), "")
	if err != nil || len(bad) > 0 {
		t.Fatal(bad, err)
	}
	have := map[string]bool{}
	for _, p := range points {
		have[p.ID] = true
		at := p.Machines[0].Disks[0].At
		wantDisk(t, v, at, lifeDisk(at.Number))
	}
	pins, _, err := v.Pins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pins {
		if !have[p.Point] {
			t.Fatalf("the pinned point %s is gone", p.Point)
		}
	}
	if n := len(safe); n > 0 {
		// A newer one may have been listed by who died before it could say so.
		last, _ := strconv.ParseUint(safe[n-1][1:], 10, 64)
		newest := points[len(points)-1].Machines[0].Disks[0].At.Number
		if newest < last {
			t.Fatalf("point %s was safe, the newest that is listed is at link %d", safe[n-1], newest)
		}
	}
}

const lifeEnv = "LEEWARD_TEST_LIFE"

// TestLifeKilled kills a process that writes, lists points, folds, prunes and pins in
// a real directory at its operations that change something, before and after they did:
// all of them with LEEWARD_FULL=1. Then another life must be able to end well.
func TestLifeKilled(t *testing.T) {
	if where := os.Getenv(lifeEnv); where != "" { // we are the child
		f := strings.Split(where, "|")
		st, err := dir.Open(f[0])
		if err != nil {
			t.Fatal(err)
		}
		at, _ := strconv.ParseInt(f[1], 10, 64)
		err = live(t.Context(), &killer{Store: st, at: at, after: f[2] == "true"}, func(p string) { fmt.Println("safe", p) })
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	step := 24 * slower
	if full() {
		step = 1
	}
	killed := 0
	for n := 1 + rand.IntN(step); ; n += step {
		after := rand.IntN(2) == 0
		root := filepath.Join(t.TempDir(), "vault")
		st, err := dir.Create(root)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		c := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestLifeKilled$")
		c.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d|%v", lifeEnv, root, n, after))
		out, err := c.CombinedOutput()
		cancel()
		var safe []string
		for line := range bytes.Lines(out) {
			if p, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("safe ")); ok {
				safe = append(safe, string(p))
			}
		}
		lifeHolds(t, st, safe)
		if err == nil {
			break // it had nothing more to do
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child: %v\n%s", err, out)
		}
		killed++
		if err := live(t.Context(), st, func(p string) { safe = append(safe, p) }); err != nil {
			t.Fatalf("the life after being killed at change %d: %v", n, err)
		}
		lifeHolds(t, st, safe)
	}
	if killed < 3 && slower == 1 {
		t.Fatalf("killed %d times only", killed)
	}
	t.Logf("killed %d times", killed)
}
