package trace_test

import (
	"os"
	"testing"

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
	capturetest.Run(t, func(t *testing.T) *capturetest.Env {
		path := disktest.Loop(t, 8*mib)
		dev, out := open(t, path), writer(t, path)
		src, err := trace.New(dev, trace.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return &capturetest.Env{Source: src, Blocks: dev.Blocks(), Read: dev.ReadBlocks,
			Write: func(start uint64, b []byte) error {
				aligned := disk.AlignedBuffer(len(b))
				copy(aligned, b)
				_, err := out.WriteAt(aligned, int64(start*capture.BlockSize))
				return err
			}}
	})
}
