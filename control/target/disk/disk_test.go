package disk

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample makes a disk of which every other MiB is zeros.
func sample(size int) []byte {
	r := rand.NewChaCha8([32]byte{3})
	data := make([]byte, size)
	for off := 0; off < size; off += 2 << 20 {
		r.Read(data[off:min(off+1<<20, size)])
	}
	return data
}

// alone fails the test unless the only thing in dir is name.
func alone(t *testing.T, dir string, names ...string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != len(names) {
		t.Errorf("in the directory are %v, not %v", left, names)
	}
}

func qemuImg(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestFormats(t *testing.T) {
	targettest.Need(t, "qemu-img", "qemu-nbd")
	data := sample(9<<20 + 512)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, data, 0o600); err != nil {
		t.Fatal(err)
	}
	padded := append(bytes.Clone(data), make([]byte, 1<<20-512)...)
	for _, c := range []struct {
		format   Format
		qemu     string // what QEMU calls it
		readBack bool
	}{{Raw, "raw", false}, {Raw, "raw", true}, {VHD, "vpc", true}, {QCOW2, "qcow2", false}, {VMDK, "vmdk", false}} {
		t.Run(string(c.format), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), strings.Repeat("deep,dir/", 20))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "a:b.img")
			told := make(map[string]int64)
			err := Write(t.Context(), targettest.Mem("sda", data), path, Options{Format: c.format, ReadBack: c.readBack,
				Progress: func(what string, done, total int64) {
					if done > total || done < told[what] {
						t.Errorf("progress of %s: %d of %d, after %d", what, done, total, told[what])
					}
					told[what] = done
				}})
			if err != nil {
				t.Fatal(err)
			}
			if len(told) == 0 {
				t.Error("no progress was told")
			}
			alone(t, dir, "a:b.img")
			st, err := os.Stat(path)
			if err != nil || st.Mode() != 0o600 {
				t.Errorf("%v %v", st.Mode(), err)
			}
			if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > 6<<20 {
				t.Errorf("%d bytes are allocated for 5 MiB of data", used)
			}
			want := data
			if c.format == VHD {
				want = padded
				if st.Size() != 10<<20+512 {
					t.Errorf("the VHD has %d bytes", st.Size())
				}
			}
			raw := filepath.Join(t.TempDir(), "raw")
			qemuImg(t, "convert", "-f", c.qemu, "-O", "raw", path, raw)
			if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, want) {
				t.Errorf("QEMU reads %d bytes that differ: %v", len(got), err)
			}
		})
	}
}

// QEMU must believe the footer's size, whatever the geometry makes of it. 2040 GiB is
// the most it and Hyper-V take; Azure takes more.
func TestVHDSizes(t *testing.T) {
	targettest.Need(t, "qemu-img")
	for _, size := range []int64{1 << 20, 20 << 20, 64<<20 - 512, 2 << 30, 100<<30 + 4096, 2040 << 30} {
		path := filepath.Join(t.TempDir(), "x.vhd")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		aligned := VHDAlign(size)
		if aligned%mib != 0 || aligned < size || aligned-size >= mib {
			t.Errorf("%d is aligned to %d", size, aligned)
		}
		if _, err := f.WriteAt(VHDFooter(aligned, [32]byte{1}), aligned); err != nil {
			t.Fatal(err)
		}
		f.Close()
		out := qemuImg(t, "info", "-f", "vpc", "--output=json", path)
		if want := `"virtual-size": ` + itoa(aligned) + ","; !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
}

func itoa(n int64) string {
	b := []byte{}
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

func TestVHDFooterIsGolden(t *testing.T) {
	var got string
	for _, size := range []int64{1 << 20, 64 << 20, 127 << 30, 4 << 40} {
		got += hex.Dump(VHDFooter(size, [32]byte{0xaa, 15: 0xbb, 16: 0xcc})[:96]) + "\n"
	}
	golden := filepath.Join("testdata", "vhd-footer.golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || got != string(want) {
		t.Errorf("the footers changed: %v\n%s", err, got)
	}
}

// plain is a disk that cannot be restored as a whole.
type plain struct{ target.Disk }

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	exists := filepath.Join(dir, "exists")
	if err := os.WriteFile(exists, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := targettest.Mem("sda", sample(1<<20))
	liar := targettest.Mem("sda", sample(1<<20))
	liar.Lie()
	broken := targettest.Mem("sda", sample(1<<20))
	broken.Break(true)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		d    target.Disk
		path string
		o    Options
		want string
	}{
		{"file exists", nil, d, exists, Options{}, "exists: remove it"},
		{"format", nil, d, filepath.Join(dir, "x"), Options{Format: "vhdx"}, "none of raw"},
		{"directory", nil, d, dir, Options{Force: true}, "neither a file nor"},
		{"character device", nil, d, "/dev/null", Options{Force: true}, "neither a file nor"},
		{"no such device", nil, d, "/dev/nosuchdisk", Options{}, "does not exist"},
		{"no such directory", nil, d, filepath.Join(dir, "no", "x"), Options{}, "no such file"},
		{"not restorable", nil, plain{d}, filepath.Join(dir, "x"), Options{}, "as a whole"},
		{"wrong digest", nil, liar, filepath.Join(dir, "x"), Options{}, "digest"},
		{"wrong digest, forced", nil, liar, exists, Options{Force: true}, "digest"},
		{"broken", nil, broken, filepath.Join(dir, "x"), Options{}, "broken"},
		{"wrong digest, converted", nil, liar, filepath.Join(dir, "x"), Options{Format: QCOW2}, "digest"},
		{"broken, converted", nil, broken, filepath.Join(dir, "x"), Options{Format: QCOW2}, "qemu-img"},
		{"cancelled", cancelled, d, filepath.Join(dir, "x"), Options{}, "canceled"},
		{"cancelled, converted", cancelled, d, filepath.Join(dir, "x"), Options{Format: VMDK}, "canceled"},
	} {
		ctx := c.ctx
		if ctx == nil {
			ctx = t.Context()
		}
		err := Write(ctx, c.d, c.path, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, not %q in one line", c.name, err, c.want)
		}
		alone(t, dir, "exists")
	}
	if b, err := os.ReadFile(exists); err != nil || string(b) != "precious" {
		t.Errorf("the file that was there: %q, %v", b, err)
	}
	if err := Write(t.Context(), d, exists, Options{Force: true}); err != nil {
		t.Error(err)
	}
}

// What a run that was killed left is replaced; what another run writes is not.
func TestSecondRun(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	data := sample(1 << 20)
	partial := path + ".partial"
	unlock, err := enter(partial)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(partial, "x"), bytes.Repeat([]byte("half"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d := targettest.Mem("sda", data)
	if err := Write(t.Context(), d, path, Options{}); err == nil || !strings.Contains(err.Error(), "another run") {
		t.Errorf("two runs at once: %v", err)
	}
	unlock()
	if err := Write(t.Context(), d, path, Options{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the second run wrote something else: %v", err)
	}
	alone(t, dir, "x")
}

// spoiled is a medium that loses a byte.
type spoiled struct {
	*bytes.Reader
	at int64
}

func (s spoiled) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Reader.ReadAt(p, off)
	if off <= s.at && s.at < off+int64(n) {
		p[s.at-off] ^= 1
	}
	return n, err
}

func TestCompareFindsEveryByte(t *testing.T) {
	data := sample(3<<20 + 512)
	d := targettest.Mem("sda", data)
	quiet := func(string, int64, int64) {}
	size := int64(len(data))
	if err := compare(t.Context(), d, bytes.NewReader(data), size, quiet); err != nil {
		t.Errorf("the same bytes: %v", err)
	}
	for _, at := range []int64{0, 1<<20 - 1, 1 << 20, 2<<20 - 1, size - 1} {
		if err := compare(t.Context(), d, spoiled{bytes.NewReader(data), at}, size, quiet); err == nil {
			t.Errorf("byte %d differs, and is not found", at)
		}
	}
	padded := append(bytes.Clone(data), make([]byte, 8192)...)
	if err := compare(t.Context(), d, bytes.NewReader(padded), size+8192, quiet); err != nil {
		t.Errorf("with padding: %v", err)
	}
	padded[len(padded)-1] = 1
	if err := compare(t.Context(), d, bytes.NewReader(padded), size+8192, quiet); err == nil {
		t.Error("padding that is not zeros is not found")
	}
	if err := compare(t.Context(), d, bytes.NewReader(data[:2<<20]), size, quiet); err == nil {
		t.Error("an end that is missing is not found")
	}
}

func TestPartOf(t *testing.T) {
	for _, c := range []struct {
		name, device string
		want         bool
	}{
		{"/dev/sda", "/dev/sda", true}, {"/dev/sda1", "/dev/sda", true}, {"/dev/sdaa", "/dev/sda", false},
		{"/dev/loop1", "/dev/loop1", true}, {"/dev/loop10", "/dev/loop1", false}, {"/dev/loop1p2", "/dev/loop1", true},
		{"/dev/nvme0n1p3", "/dev/nvme0n1", true}, {"/dev/sdb", "/dev/sda", false},
	} {
		if got := partOf(c.name, c.device); got != c.want {
			t.Errorf("%s of %s: %v", c.name, c.device, got)
		}
	}
}

func TestTarget(t *testing.T) {
	targettest.TestTarget(t, targettest.Kit{
		New: func(t *testing.T) target.Target { return NewTarget(filepath.Join(t.TempDir(), "out"), Options{}) },
		Live: func(*testing.T) (*target.Machine, target.Probe) {
			return &target.Machine{Name: "m", Firmware: "bios", Disks: []target.Disk{
				targettest.Mem("sda", sample(1<<20)), targettest.Mem("sdb", sample(2<<20)),
			}}, target.Probe{Serial: "ignored"}
		},
	})
}

func TestTargetNames(t *testing.T) {
	dir := t.TempDir()
	d := targettest.Mem("sda", sample(1<<20))
	m := &target.Machine{Name: "web", Firmware: "bios", Disks: []target.Disk{d}}
	for out, want := range map[string]string{
		filepath.Join(dir, "one.img"):   filepath.Join(dir, "one.img"),
		filepath.Join(dir, "new") + "/": filepath.Join(dir, "new", "web-sda.vhd"),
		dir:                             filepath.Join(dir, "web-sda.vhd"),
	} {
		tg := NewTarget(out, Options{Format: VHD})
		r, err := tg.Start(t.Context(), m, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Probe(t.Context(), target.Probe{}); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(want); err != nil {
			t.Error(err)
		}
		if err := tg.Validate(t.Context(), m); err == nil {
			t.Error("a file that is there would be replaced")
		}
	}
	if err := NewTarget("", Options{}).Validate(t.Context(), m); err == nil {
		t.Error("no place to write to is not refused")
	}
	d.Break(true)
	r, err := NewTarget(filepath.Join(dir, "two"), Options{}).Start(t.Context(), m, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Probe(t.Context(), target.Probe{}); err == nil {
		t.Error("a disk that could not be written is alive")
	}
	if err := errors.Join(r.Stop(t.Context())); err != nil {
		t.Error(err)
	}
}
