package nbd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target/nbd"
	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// sample makes a disk of which every other MiB is a hole; the last page is short.
func sample(size int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	data := make([]byte, size)
	for off := 0; off < size; off += 2 << 20 {
		r.Read(data[off:min(off+1<<20, size)])
	}
	return data
}

// serve serves an overlay over data as "d", and the same read-only as "ro", until
// the test ends. It returns the directory of the socket s and an image of data.
func serve(t testing.TB, data []byte) (dir, image string, o *overlay.Overlay) {
	t.Helper()
	dir = t.TempDir()
	o, err := overlay.New(targettest.Mem("d", data), filepath.Join(dir, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	image = filepath.Join(dir, "image")
	if err := os.WriteFile(image, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := nbd.NewServer(nil,
		nbd.Config{Name: "d", Description: "a disk", Export: o},
		nbd.Config{Name: "ro", Export: o, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := nbd.Listen(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return dir, image, o
}

// run runs a client in the socket's directory and returns what it says.
func run(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

const (
	uri   = "nbd+unix:///d?socket=s"
	uriRO = "nbd+unix:///ro?socket=s"
)

func TestNbdinfo(t *testing.T) {
	targettest.Need(t, "nbdinfo")
	dir, _, _ := serve(t, sample(8<<20+512))
	out := run(t, dir, "nbdinfo", "--json", uri)
	var info struct {
		Exports []map[string]any `json:"exports"`
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil || len(info.Exports) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, flag := range []string{"can_cache", "can_df", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero", "can_fast_zero"} {
		if info.Exports[0][flag] != true {
			t.Errorf("%s is %v", flag, info.Exports[0][flag])
		}
	}
	if info.Exports[0]["export-size"] != float64(8<<20+512) || info.Exports[0]["is_read_only"] != false {
		t.Errorf("nbdinfo says %s", out)
	}
	if out := run(t, dir, "nbdinfo", "--is", "read-only", uriRO); out != "" {
		t.Error(out)
	}
	if out := run(t, dir, "nbdinfo", "--list", "nbd+unix://?socket=s"); !strings.Contains(out, `export="d"`) || !strings.Contains(out, `export="ro"`) {
		t.Errorf("the list is %s", out)
	}
	var runs []struct{ Offset, Length, Type int }
	if err := json.Unmarshal([]byte(run(t, dir, "nbdinfo", "--map", "--json", uri)), &runs); err != nil {
		t.Fatal(err)
	}
	if len(runs) != 9 || runs[1].Offset != 1<<20 || runs[1].Length != 1<<20 || runs[1].Type != 3 || runs[8].Length != 512 {
		t.Errorf("the map is %v", runs)
	}
}

func TestCopiesAreEqual(t *testing.T) {
	targettest.Need(t, "nbdcopy", "qemu-img")
	data := sample(24<<20 + 4096)
	dir, image, _ := serve(t, data)
	for name, args := range map[string][]string{
		"nbdcopy":  {"nbdcopy", "--connections=4", uri, "copy-nbdcopy"},
		"simple":   {"nbdcopy", "--synchronous", "--allocated", uriRO, "copy-simple"},
		"qemu-img": {"qemu-img", "convert", "-f", "raw", "-O", "raw", uriRO, "copy-qemu-img"},
	} {
		run(t, dir, args[0], args[1:]...)
		got, err := os.ReadFile(filepath.Join(dir, "copy-"+name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: the copy differs: %v", name, err)
		}
	}
	run(t, dir, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, image)
	run(t, dir, "nbdcopy", "--destination-is-zero", image, uri) // and the other way
	run(t, dir, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, image)
	out := run(t, dir, "qemu-img", "map", "--output=json", "-f", "raw", uriRO)
	var runs []struct {
		Start, Length int
		Zero, Data    bool
	}
	if err := json.Unmarshal([]byte(out), &runs); err != nil || len(runs) < 20 || runs[1].Start != 1<<20 || runs[1].Data || !runs[1].Zero {
		t.Errorf("%v: the map is %s", err, out)
	}
}

func TestQemuIO(t *testing.T) {
	targettest.Need(t, "qemu-io", "qemu-img")
	data := sample(8<<20 + 512)
	dir, _, o := serve(t, data)
	var args []string
	for _, c := range []string{
		"write -P 0x11 4096 64k", "read -P 0x11 4096 64k",
		"write -P 0x22 1234 5678", "read -P 0x22 1234 5678", "read -P 0x11 6912 60000",
		"write -z 65536 128k", "read -P 0 65536 128k",
		"write -z -u 300000 1000", "read -P 0 300000 1000",
		"discard 1m 2m", "read -P 0 1m 2m",
		"write -f -P 0x33 3m 1m", "read -P 0x33 3m 1m",
		"write -P 0x44 8388608 512", "read -P 0x44 8388608 512",
		"aio_write -P 0x55 4m 1m", "aio_write -P 0x66 5m 1m", "aio_flush", "read -P 0x55 4m 1m", "read -P 0x66 5m 1m",
		"flush",
	} {
		args = append(args, "-c", c)
	}
	out := run(t, dir, "qemu-io", append([]string{"-f", "raw", "-t", "none", uri}, args...)...)
	if strings.Contains(out, "failed") || strings.Contains(strings.ToLower(out), "error") {
		t.Errorf("qemu-io says\n%s", out)
	}
	if o.Stats().Written == 0 {
		t.Error("nothing was written")
	}
	cmd := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 4096", uriRO)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("writing to the read-only export: %s", out)
	}
}

// fio writes random pieces with checksums in them and reads them back.
func TestFioVerify(t *testing.T) {
	targettest.Need(t, "fio")
	dir, _, _ := serve(t, sample(32<<20))
	if out := run(t, dir, "fio", "--enghelp"); !strings.Contains(out, "nbd") {
		targettest.Missing(t, "fio has no nbd engine")
	}
	run(t, dir, "fio", "--name=verify", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bsrange=512-256k", "--bs_unaligned",
		"--iodepth=16", "--size=32M", "--verify=crc32c", "--verify_fatal=1", "--fsync=64", "--randseed=7")
}

// An export that fails is an error to the client, and the next request works.
func TestFailingExport(t *testing.T) {
	targettest.Need(t, "qemu-io")
	d := targettest.Mem("d", bytes.Repeat([]byte{1}, 1<<20))
	dir := t.TempDir()
	o, err := overlay.New(d, filepath.Join(dir, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := nbd.NewServer(nil, nbd.Config{Name: "d", Export: o})
	if err != nil {
		t.Fatal(err)
	}
	l, err := nbd.Listen(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	defer func() { cancel(); <-served }()
	d.Break(true)
	cmd := exec.Command("qemu-io", "-f", "raw", "-c", "write -P 7 4096 4096", "-c", "read 0 4096", "-c", "read -P 7 4096 4096", uri)
	cmd.Dir = dir
	out, _ := cmd.CombinedOutput()
	if n := strings.Count(string(out), "Input/output error"); n != 1 || !strings.Contains(string(out), "read 4096/4096") {
		t.Errorf("qemu-io says\n%s", out)
	}
}

// BenchmarkRead reads through a client of ours, 1 MiB at a time.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			dir, _, _ := serve(b, bytes.Repeat([]byte{1}, 64<<20))
			c, err := nbd.Dial(b.Context(), dir, "s", "ro")
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			off := int64(0)
			for b.Loop() {
				if _, err := c.ReadAt(buf, off); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(size)) % (64 << 20)
			}
		})
	}
}
