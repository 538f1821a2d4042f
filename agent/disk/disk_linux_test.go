package disk_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

const mib = 1 << 20

var ctx = context.Background()

func open(t testing.TB, path string) *disk.Disk {
	t.Helper()
	d, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestOpenErrors(t *testing.T) {
	small := disktest.Image(t, 100)
	for path, want := range map[string]error{
		filepath.Join(t.TempDir(), "absent"): os.ErrNotExist,
		t.TempDir():                          disk.ErrNotDisk,
		"/dev/null":                          disk.ErrNotDisk,
		small:                                disk.ErrTooSmall,
	} {
		if _, err := disk.Open(path); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}

func TestImageIdentity(t *testing.T) {
	path := disktest.Image(t, mib)
	d := open(t, path)
	if d.IsBlock() || d.Major() != 0 || d.Identity() == "" || d.Name() != "" {
		t.Errorf("an image shows as %q block=%v", d.Identity(), d.IsBlock())
	}
	link := path + ".link"
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	if other := open(t, link); other.Identity() != d.Identity() {
		t.Errorf("one file, two identities: %s, %s", d.Identity(), other.Identity())
	}
}

func TestLoopDevice(t *testing.T) {
	disktest.NeedRoot(t)
	const size = 4*mib + 512 // not a multiple of 4096
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(i * 7 / 3)
	}
	img := disktest.Image(t, size)
	if err := os.WriteFile(img, want, 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, disktest.Attach(t, img))
	if !d.IsBlock() || d.Major() != 7 || d.Size() != size || d.Blocks() != 1025 || d.Backing() != img {
		t.Fatalf("block=%v %d:%d size=%d blocks=%d backing=%s", d.IsBlock(), d.Major(), d.Minor(), d.Size(), d.Blocks(), d.Backing())
	}
	if file := open(t, img); file.Identity() != d.Identity() {
		t.Errorf("identity %q of the loop device is not its file's %q", d.Identity(), file.Identity())
	}
	padded := append(slices.Clone(want), make([]byte, disk.BlockSize-512)...)
	for _, buf := range [][]byte{disk.AlignedBuffer(len(padded)), make([]byte, len(padded)+1)[1:]} {
		if err := d.ReadBlocks(ctx, 0, buf); err != nil || !bytes.Equal(buf, padded) {
			t.Errorf("contents differ (%v)", err)
		}
	}
	got, err := io.ReadAll(io.NewSectionReader(d, 0, size+100))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("ReadAt gives %d bytes, %v", len(got), err)
	}
	odd := make([]byte, 5000)
	if n, err := d.ReadAt(odd, 4093); n != 5000 || err != nil || !bytes.Equal(odd, want[4093:9093]) {
		t.Errorf("an unaligned ReadAt gives %d bytes, %v", n, err)
	}
}

func TestPartitionIsRefused(t *testing.T) {
	disktest.NeedRoot(t, "sfdisk", "partx")
	dev := disktest.Loop(t, 64*mib)
	parts := disktest.Partition(t, dev, 2)
	_, err := disk.Open(parts[1])
	if !errors.Is(err, disk.ErrPartition) || !strings.HasSuffix(err.Error(), "use "+dev) {
		t.Fatalf("got %v", err)
	}
}

func TestMounts(t *testing.T) {
	disktest.NeedRoot(t, "sfdisk", "partx", "mkfs.ext4", "mkfs.btrfs")
	dev := disktest.Loop(t, 600*mib)
	parts := disktest.Partition(t, dev, 3)
	disktest.Mkfs(t, parts[0], "ext4")
	disktest.Mkfs(t, parts[1], "btrfs")
	ext4, btrfs := disktest.Mount(t, parts[0]), disktest.Mount(t, parts[1])
	// A bind mount and a subvolume are no filesystems of their own.
	disktest.Run(t, "btrfs", "-q", "subvolume", "create", btrfs+"/vol")
	disktest.Mount(t, parts[1], "subvol=vol")
	bind := filepath.Join(t.TempDir(), "with space")
	if err := errors.Join(os.Mkdir(bind, 0o700), os.Mkdir(ext4+"/dir", 0o700)); err != nil {
		t.Fatal(err)
	}
	disktest.Run(t, "mount", "--bind", ext4+"/dir", bind)
	t.Cleanup(func() { disktest.Unmount(t, bind) })
	// A filesystem in a file on the first one.
	inner := ext4 + "/inner.img"
	if err := errors.Join(os.WriteFile(inner, nil, 0o600), os.Truncate(inner, 32*mib)); err != nil {
		t.Fatal(err)
	}
	innerDev := disktest.Attach(t, inner)
	disktest.Mkfs(t, innerDev, "ext4")
	innerDir := disktest.Mount(t, innerDev, "ro")
	disktest.Run(t, "mkswap", parts[2])
	disktest.Run(t, "swapon", parts[2])
	t.Cleanup(func() { disktest.Run(t, "swapoff", parts[2]) })

	u, err := disk.Inspect(open(t, dev))
	if err != nil {
		t.Fatal(err)
	}
	checkMounts(t, u, map[string]string{innerDir: innerDev, ext4: parts[0], btrfs: parts[1]})
	if top := u.Mounts[0]; top.Path != innerDir || !top.ReadOnly || top.Depth != u.Mounts[1].Depth+1 {
		t.Errorf("the filesystem in a file does not come first: %+v", u.Mounts)
	}
	if len(u.Swaps) != 1 || u.Swaps[0].Path != parts[2] || len(u.Hidden) != 0 {
		t.Errorf("swaps %v, hidden %v", u.Swaps, u.Hidden)
	}
	on, ok, err := disk.FilesystemOf(bind)
	if err != nil || !ok || on.Path != ext4 || !slices.Contains(on.Also, bind) {
		t.Errorf("FilesystemOf(%s) = %+v %v %v", bind, on, ok, err)
	}
	if _, ok, err := disk.FilesystemOf("/proc/self"); ok || err != nil {
		t.Errorf("proc is on a disk: %v", err)
	}
}

// checkMounts wants exactly these mountpoints, each on its device.
func checkMounts(t *testing.T, u *disk.Usage, want map[string]string) {
	t.Helper()
	if len(u.Mounts) != len(want) {
		t.Fatalf("got %d mounts, want %d: %+v", len(u.Mounts), len(want), u.Mounts)
	}
	for _, m := range u.Mounts {
		if "/dev/"+m.Device != want[m.Path] {
			t.Errorf("%s is on %s, want %s", m.Path, m.Device, want[m.Path])
		}
	}
}

func TestMountsOfImageFile(t *testing.T) {
	disktest.NeedRoot(t, "mkfs.ext4")
	img := disktest.Image(t, 32*mib)
	dev := disktest.Attach(t, img)
	disktest.Mkfs(t, dev, "ext4")
	dir := disktest.Mount(t, dev)
	mounts, err := disk.Mounts(open(t, img))
	if err != nil || len(mounts) != 1 || mounts[0].Path != dir {
		t.Fatalf("got %+v, %v", mounts, err)
	}
}

func TestHiddenMount(t *testing.T) {
	disktest.NeedRoot(t, "mkfs.ext4", "unshare")
	dev := disktest.Loop(t, 32*mib)
	disktest.Mkfs(t, dev, "ext4")
	dir := t.TempDir()
	// Mounted in a mount namespace of its own, which lives as long as its stdin.
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount "$0" "$1" && echo up && cat`, dev, dir)
	in, err := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	u, err := disk.Inspect(open(t, dev))
	if err != nil || len(u.Mounts) != 0 || !slices.Equal(u.Hidden, []string{filepath.Base(dev)}) {
		t.Fatalf("got %+v, %v", u, err)
	}
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "locks")
	img := disktest.Image(t, mib)
	if err := os.Link(img, img+".too"); err != nil {
		t.Fatal(err)
	}
	a, b := open(t, img), open(t, img+".too")
	l, err := disk.Lock(dir, a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Lock(dir, b); !errors.Is(err, disk.ErrLocked) || !strings.Contains(err.Error(), "pid ") {
		t.Fatalf("a second lock: %v", err)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := disk.Lock(dir, b)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Unlock(); err != nil {
		t.Fatal(err)
	}
}
