package mastertarget

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

// A block device is brought home like an image; one that is mounted never is.
func TestDevice(t *testing.T) {
	disktest.NeedRoot(t, "losetup", "mkfs.ext4")
	const size = 32 << 20
	s := newSite(t, size)
	image := disktest.Image(t, size)
	dev := disktest.Attach(t, image)
	d, err := disk.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	identity := d.Identity()
	d.Close()
	r := rand.New(rand.NewPCG(6, 6))
	first := s.cut(t, identity, s.scribble(r, 0.3)...)
	on := func(c *Config) { c.Path = dev }

	disktest.Mkfs(t, dev, "ext4")
	dir := disktest.Mount(t, dev)
	if _, err := s.try(on); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "mounted at "+dir) {
		t.Fatalf("a mounted disk: %v", err)
	}
	disktest.Unmount(t, dir)
	if _, err := s.try(func(c *Config) { c.Path, c.Other = image, true }); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), dev) {
		t.Errorf("an image under a loop device: %v", err)
	}

	m := s.open(t, on)
	if _, err := m.Bring(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	next := s.cut(t, "", s.scribble(r, 0.1)...)
	b, err := m.Bring(t.Context(), next)
	if err != nil || b.Whole {
		t.Fatalf("%+v, %v", b, err)
	}
	if err := m.Verify(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dev)
	if err != nil || !bytes.Equal(got, s.images[next.At]) {
		t.Errorf("the device differs: %v", err)
	}
}
