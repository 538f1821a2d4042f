package disk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

// loop makes a block device of size bytes that holds c everywhere, until the test
// ends.
func loop(t *testing.T, size int, c byte) (device, file string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: loop devices need root")
	}
	targettest.Need(t, "losetup")
	file = filepath.Join(t.TempDir(), "back")
	if err := os.WriteFile(file, bytes.Repeat([]byte{c}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup -d: %v: %s", err, out)
		}
	})
	return device, file
}

func TestDevice(t *testing.T) {
	data := sample(4<<20 + 512)
	device, file := loop(t, 6<<20, 'o')
	d := targettest.Mem("sda", data)
	for what, o := range map[string]Options{
		"holds data":          {},
		"only raw":            {Format: VHD, Force: true},
		"only raw can":        {Format: QCOW2, Force: true},
		"has 6291456 bytes, ": {Force: true},
	} {
		disk := d
		if strings.HasPrefix(what, "has ") {
			disk = targettest.Mem("sda", make([]byte, 6<<20+512))
		}
		if err := Write(t.Context(), disk, device, o); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, not %q", err, what)
		}
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{'o'}, 6<<20)) {
		t.Fatalf("a device that was refused was written: %v", err)
	}
	if err := Write(t.Context(), d, device, Options{Force: true, ReadBack: true}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(device)
	if err != nil || !bytes.Equal(b[:len(data)], data) {
		t.Errorf("the device holds something else: %v", err)
	}
	if rest := b[len(data):]; !bytes.Equal(rest, bytes.Repeat([]byte{'o'}, len(rest))) {
		t.Error("what the device has beyond the disk was written")
	}
}

func TestBlankDevice(t *testing.T) {
	data := sample(2 << 20)
	device, _ := loop(t, 2<<20, 0)
	if err := Write(t.Context(), targettest.Mem("sda", data), device, Options{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(device); err != nil || !bytes.Equal(b, data) {
		t.Errorf("the device holds something else: %v", err)
	}
}

func TestMountedDevice(t *testing.T) {
	targettest.Need(t, "mke2fs", "mount", "umount")
	device, _ := loop(t, 4<<20, 0)
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", device).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	at := t.TempDir()
	if out, err := exec.Command("mount", device, at).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}()
	err := Write(t.Context(), targettest.Mem("sda", sample(1<<20)), device, Options{Force: true})
	if err == nil || !strings.Contains(err.Error(), "mounted at "+at) {
		t.Errorf("writing to a mounted device: %v", err)
	}
}

// Without the device's help zeros are written as bytes.
func TestZerosByHand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, bytes.Repeat([]byte{'o'}, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := zeroOut(f, 4096, 2<<20+512); err != nil { // a file knows no such ioctl
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{'o'}, 3<<20)
	clear(want[4096 : 4096+2<<20+512])
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("not the right bytes are zeros: %v", err)
	}
}
