package overlay_test

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

const killEnv = "LEEWARD_TEST_OVERLAY"

func TestMain(m *testing.M) {
	if path := os.Getenv(killEnv); path != "" {
		if err := scribble(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

const (
	killSize  = 1 << 20
	scribbler = 4 // goroutines, each with pages of its own
)

// scribble writes to an overlay until it is killed, and says when something is flushed:
// "page value" lines.
func scribble(path string) error {
	o, err := overlay.Open(targettest.Mem("d", make([]byte, killSize)), path)
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(os.Getenv(killEnv+"_SEED"), 10, 64)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range scribbler {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for value := 1; ; value++ {
				page := r.IntN(killSize/4096/scribbler)*scribbler + w
				b := make([]byte, 4096)
				// Values only grow, from one process to the next too.
				copy(b, fmt.Sprintf("%d\n", seed<<32+uint64(value)))
				_, err := o.WriteAt(b, int64(page)*4096)
				if err == nil {
					err = o.Flush()
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Printf("%d %d\n", page, seed<<32+uint64(value))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return nil
}

// A process that is killed in the middle of writing loses nothing that was flushed.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	flushed := map[int]uint64{}
	total := 0
	for round := range 8 {
		c := exec.CommandContext(t.Context(), os.Args[0])
		c.Env = append(os.Environ(), killEnv+"="+path, fmt.Sprintf("%s_SEED=%d", killEnv, round+1))
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		watchdog := time.AfterFunc(3*time.Minute, func() { c.Process.Kill() })
		enough, lines := 5+rand.IntN(200), 0
		for s := bufio.NewScanner(out); s.Scan(); lines++ {
			var page int
			var value uint64
			if n, err := fmt.Sscanf(s.Text(), "%d %d", &page, &value); n != 2 {
				t.Fatalf("%q: %v", s.Text(), err)
			}
			flushed[page] = value
			if lines == enough {
				c.Process.Kill()
			}
		}
		c.Wait()
		if !watchdog.Stop() || lines < enough {
			t.Fatalf("it ended after %d flushes", lines)
		}
		total += lines
		o, err := overlay.Open(targettest.Mem("d", make([]byte, killSize)), path)
		if err != nil {
			t.Fatal(err)
		}
		b := readAll(t, o, killSize)
		for page, want := range flushed {
			text, _, _ := bytes.Cut(b[page*4096:(page+1)*4096], []byte{'\n'})
			got, err := strconv.ParseUint(string(text), 10, 64)
			if err != nil || got < want {
				t.Errorf("round %d: page %d holds %q, %d was flushed", round, page, text, want)
			}
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d flushes in 8 processes, all killed", total)
}

// BenchmarkFlush shows what a durable overlay costs: 4 KiB and a flush, beside the same
// on a plain file.
func BenchmarkFlush(b *testing.B) {
	page := bytes.Repeat([]byte{7}, 4096)
	const size = 64 << 20
	run := func(name string, write func(off int64) error) {
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 1))
			for b.Loop() {
				if err := write(r.Int64N(size/4096) * 4096); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	o, err := overlay.Open(targettest.Mem("d", make([]byte, size)), filepath.Join(b.TempDir(), "disk"))
	if err != nil {
		b.Fatal(err)
	}
	defer o.Close()
	run("overlay without flush", func(off int64) error { _, err := o.WriteAt(page, off); return err })
	o.Flush()
	run("overlay, pages known", func(off int64) error {
		if _, err := o.WriteAt(page, off); err != nil {
			return err
		}
		return o.Flush()
	})
	n := int64(0)
	run("overlay, pages new", func(int64) error {
		// Written and zeroed in turns: the map changes each time.
		n++
		off := n * 4096 % size
		if n/(size/4096)%2 == 0 {
			if err := o.WriteZeroes(off, 4096); err != nil {
				return err
			}
			return o.Flush()
		}
		if _, err := o.WriteAt(page, off); err != nil {
			return err
		}
		return o.Flush()
	})
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		b.Fatal(err)
	}
	f.Sync()
	run("file", func(off int64) error {
		if _, err := f.WriteAt(page, off); err != nil {
			return err
		}
		return f.Sync()
	})
}
