package reverse_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/mastertarget"
	"github.com/leeward-dr/leeward/consumers/process"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/control/reverse"
	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/control/vaulttest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

const homeEnv = "LEEWARD_TEST_HOME"

func TestMain(m *testing.M) {
	if os.Getenv(homeEnv) != "" {
		if err := bringHome(strings.Split(os.Getenv(homeEnv), "\n")); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// counted counts what is read from a store.
type counted struct {
	store.Store
	read atomic.Int64
}

func (c *counted) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := c.Store.Get(ctx, key, off, n)
	c.read.Add(int64(len(b)))
	return b, err
}

// bringHome is a master target in a process of its own: URL, key, image, directory, size,
// epoch, number, digest. It says how far it is and what it has read of the store.
func bringHome(arg []string) error {
	ctx := context.Background()
	key, err := vault.KeyFromFile(arg[1])
	if err != nil {
		return err
	}
	st, err := vault.OpenStore(arg[0], false)
	if err != nil {
		return err
	}
	c := &counted{Store: st}
	v, err := vault.Unlock(ctx, c, key)
	if err != nil {
		return err
	}
	var n [3]uint64
	for i := range n {
		if n[i], err = strconv.ParseUint(arg[4+i], 10, 64); err != nil {
			return err
		}
	}
	d := &vault.PointDisk{Disk: "sda", At: vault.Position{Epoch: n[1], Number: n[2]}, Size: n[0]}
	if err := d.Digest.UnmarshalText([]byte(arg[7])); err != nil {
		return err
	}
	m, err := mastertarget.Open(ctx, mastertarget.Config{
		Vault: v, Disk: sda, Path: arg[2], StateDir: arg[3], Size: n[0], Other: true,
		Progress: func(what string, done, total int64) { fmt.Println(what, done, total, c.read.Load()) },
	})
	if err != nil {
		return err
	}
	defer m.Close()
	if _, err := m.Bring(ctx, d); err != nil {
		return err
	}
	return m.Verify(ctx, d)
}

// sparse makes a disk of size bytes in the vault, of which data bytes are not zero, and
// writes the same to an image.
func sparse(t *testing.T, v *vaulttest.Vault, image string, size, data int64) vault.Position {
	t.Helper()
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	b := &vault.Batch{Epoch: 1, First: 1, Last: 2, Hash: sha256.Sum256([]byte("base")),
		Open: &vault.Open{Size: uint64(size), Capture: "scan", Host: "web1", Instance: "i", Path: "/dev/sda", Reason: "first", Time: time.Now()},
		Cut:  &vault.Cut{Point: "p1", Group: "web1", Time: time.Now(), Consistency: "crash", Size: uint64(size)}}
	r := rand.NewChaCha8([32]byte{1})
	const piece = 64 * vault.BlockSize
	for i := range data / piece {
		buf := make([]byte, piece)
		r.Read(buf)
		off := i * (size / (data / piece)) / vault.BlockSize * vault.BlockSize
		if _, err := f.WriteAt(buf, off); err != nil {
			t.Fatal(err)
		}
		frame := vault.Frame{Raw: piece, Data: buf, Extents: []vault.Extent{{Start: uint64(off / vault.BlockSize), Count: 64}}}
		for at := 0; at < piece; at += vault.BlockSize {
			frame.Sums = append(frame.Sums, vault.SumOf(buf[at:at+vault.BlockSize]))
		}
		b.Frames = append(b.Frames, frame)
	}
	w, err := v.OpenDisk(t.Context(), sda)
	if err != nil {
		t.Fatal(err)
	}
	h, err := w.Commit(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return h.Position
}

func sumOf(t *testing.T, r io.Reader) [32]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// A disk of which one percent was changed at the recovery site comes home with little more
// than that crossing in each direction, also when the one who writes it is killed.
func TestOnePercentComesHome(t *testing.T) {
	size, opening := int64(256<<20), int64(3<<20) // to find out what there is, which is much beside so little
	if os.Getenv("LEEWARD_FULL") != "" {
		size, opening = 8<<30, 0
	}
	changed := size / 100 / vault.BlockSize * vault.BlockSize
	b, v := streamstest.Start(t), vaulttest.New(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "sda.img")
	at := sparse(t, v, image, size, size/64)
	p, err := process.New(b, v.Vault, process.Default(), process.Options{Partitions: []int{streams.Partition("web1", "sda")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer p.Stop(context.Background())
	r, err := v.OpenAt(t.Context(), sda, at, vault.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o, err := overlay.Open(r, filepath.Join(dir, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	noise, buf := rand.NewChaCha8([32]byte{2}), make([]byte, 16<<10)
	for left, i := changed, int64(0); left > 0; i++ {
		n := min(left, int64(len(buf)))
		noise.Read(buf[:n])
		if _, err := o.WriteAt(buf[:n], i*(100*int64(len(buf)))); err != nil {
			t.Fatal(err)
		}
		left -= n
	}

	m := &machine{t: t, o: o, seen: map[int64][]byte{}}
	e, err := reverse.New(reverse.Config{
		Machine: "web1", Facts: wire.Facts{Firmware: "bios"}, Disks: []reverse.Disk{{Name: "sda", Base: at, Overlay: o}},
		Pause: func(context.Context) (func() error, error) { return func() error { return nil }, nil },
	}, b, v.Vault)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{T: t, b: b, v: v, m: m}
	stop := s.run(e)
	defer stop()
	s.until("the first point", func() bool { return e.Status().Points > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	k, err := e.Final(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent := int64(e.Status().Sent)
	c := k.Members[0].Disks[0]
	cut, err := v.Cut(ctx, sda, vault.Position{Epoch: c.Epoch, Number: c.Number})
	if err != nil {
		t.Fatal(err)
	}
	text, err := cut.Digest.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	arg := strings.Join([]string{v.URL, v.KeyFile, image, filepath.Join(dir, "state"), fmt.Sprint(size), fmt.Sprint(c.Epoch), fmt.Sprint(c.Number), string(text)}, "\n")
	fetched := int64(0)
	for _, kill := range []bool{true, true, false} {
		fetched += runHome(t, arg, kill)
	}
	t.Logf("%d of %d bytes were changed: sent %d (%.3f), fetched %d (%.3f) in three runs, two of them killed",
		changed, size, sent, float64(sent)/float64(changed), fetched, float64(fetched)/float64(changed))
	if limit := changed + changed/5; sent > limit || fetched > limit+opening {
		t.Errorf("more than 1.2 times what was changed")
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if sumOf(t, f) != sumOf(t, io.NewSectionReader(o, 0, size)) {
		t.Error("at home the disk is another")
	}
}

// runHome runs a master target, kills it on the way or lets it end well, and returns what
// it read of the store.
func runHome(t *testing.T, arg string, kill bool) (read int64) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0])
	c.Env = append(os.Environ(), homeEnv+"="+arg)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(5*patience, func() { c.Process.Kill() })
	defer watchdog.Stop()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var what string
		var done, total, n int64
		if k, _ := fmt.Sscan(lines.Text(), &what, &done, &total, &n); k != 4 {
			t.Errorf("it said %q", lines.Text())
			continue
		}
		read = n
		if kill && what == "bring" && done >= total/3 {
			c.Process.Kill()
		}
	}
	if err = c.Wait(); !kill && err != nil {
		t.Fatalf("the last run: %v", err)
	}
	return read
}
