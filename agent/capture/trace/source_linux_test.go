package trace_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/capturetest"
	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

const mib = 1 << 20

func open(t testing.TB, path string) *disk.Disk {
	t.Helper()
	d, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// writer opens a device for writes that are complete when they return.
func writer(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestConforms(t *testing.T) {
	disktest.NeedRoot(t)
	conforms(t, func(t *testing.T) string { return disktest.Loop(t, 8*mib) })
}

// conforms runs the kit on disks that another function makes.
func conforms(t *testing.T, fresh func(*testing.T) string) {
	capturetest.Run(t, func(t *testing.T) *capturetest.Env {
		path := fresh(t)
		dev, out := open(t, path), writer(t, path)
		o := trace.Options{Keep: t.TempDir()}
		next := func() capture.Source {
			src, err := trace.New(dev, o)
			if err != nil {
				t.Fatal(err)
			}
			return src
		}
		t.Cleanup(func() {
			if _, err := trace.Forget(o.Keep, "", false); err != nil {
				t.Error(err)
			}
		})
		write := func(start uint64, b []byte) error {
			aligned := disk.AlignedBuffer(len(b))
			copy(aligned, b)
			_, err := out.WriteAt(aligned, int64(start*capture.BlockSize))
			return err
		}
		return &capturetest.Env{Source: next(), Blocks: dev.Blocks(), Read: dev.ReadBlocks, Write: write, Next: next, Lies: lies(t, dev, write)}
	})
}

// lies are those that can be told to a disk that is written to; see also
// TestReplacedDiskIsNoticed and TestOverflowIsNoticed.
func lies(t *testing.T, dev *disk.Disk, write func(uint64, []byte) error) []capturetest.Lie {
	instance := func() string {
		dirs, _ := filepath.Glob(fmt.Sprintf("%s/instances/leeward-kept_*_%d_%d_q*", trace.DefaultRoot, dev.Major(), dev.Minor()))
		if len(dirs) != 1 {
			t.Fatalf("instances %v", dirs)
		}
		return dirs[0]
	}
	block := make([]byte, capture.BlockSize)
	set := func(file, value string) error { return os.WriteFile(filepath.Join(instance(), file), []byte(value), 0) }
	const filter = "events/block/block_rq_complete/filter"
	return []capturetest.Lie{
		{Name: "dropped events", Want: capture.ErrLost, Word: "somebody else reads", Tell: func() error {
			for end := time.Now().Add(waitLong); time.Now().Before(end); {
				if err := write(4, block); err != nil {
					return err
				}
				pipes, _ := filepath.Glob(instance() + "/per_cpu/cpu*/trace_pipe_raw")
				for _, p := range pipes {
					fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK, 0)
					if err != nil {
						return err
					}
					n, _ := unix.Read(fd, make([]byte, 4096))
					unix.Close(fd)
					if n > 0 {
						return nil
					}
				}
			}
			return errors.New("the driver was always faster")
		}},
		{Name: "a counter that disagrees", Want: capture.ErrLost, Word: "counted", Tell: func() error {
			old, err := os.ReadFile(filepath.Join(instance(), filter))
			if err != nil {
				return err
			}
			return errors.Join(set(filter, "nr_sector == 0"), write(4, block), set(filter, strings.TrimSpace(string(old))))
		}},
		{Name: "recording switched off", Want: capture.ErrLost, Word: "switched", Tell: func() error { return set("tracing_on", "0") }},
	}
}
