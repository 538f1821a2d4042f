package fixup

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// cpioOf makes an archive of files; a name that ends with / is a folder.
func cpioOf(t testing.TB, members ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := &cpioWriter{w: &b}
	for _, m := range members {
		if name, ok := strings.CutSuffix(m[0], "/"); ok {
			w.dir(name)
		} else {
			w.file(m[0], modeFile|0o644, []byte(m[1]))
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pack compresses as the builders of initramfs do. LZ4 is written as literals: what
// compressors make of it is in testdata.
func pack(t testing.TB, how string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch how {
	case "cpio":
		return b
	case "gzip":
		w = gzip.NewWriter(&out)
	case "zstd":
		w, err = zstd.NewWriter(&out)
	case "xz":
		w, err = xz.WriterConfig{CheckSum: xz.CRC32}.NewWriter(&out)
	case "lzma":
		w, err = lzma.NewWriter(&out)
	case "lz4":
		block := []byte{0xf0}
		if n := len(b) - 15; n >= 0 {
			for ; n >= 255; n -= 255 {
				block = append(block, 255)
			}
			block = append(block, byte(n))
		} else {
			block[0] = byte(len(b) << 4)
		}
		block = append(block, b...)
		out.Write([]byte{0x02, 0x21, 0x4c, 0x18, byte(len(block)), byte(len(block) >> 8), byte(len(block) >> 16), 0})
		out.Write(block)
		return out.Bytes()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func scan(b []byte) (*initramfs, error) {
	return scanInitramfs(bytes.NewReader(b), int64(len(b)), 4<<20, func(name string) bool { return name == loadList })
}

// An initramfs is a chain: microcode, the archive proper in any packing, and what was
// appended, with zeros between them.
func TestChain(t *testing.T) {
	early := cpioOf(t, [2]string{"kernel/", ""}, [2]string{"kernel/x86/microcode/GenuineIntel.bin", strings.Repeat("micro", 999)})
	main := cpioOf(t, [2]string{"conf/", ""}, [2]string{loadList, "ahci\n"}, [2]string{"init", strings.Repeat("init", 9999)})
	late := padded(cpioOf(t, [2]string{loadList, "ahci\nvirtio_blk\n"}, [2]string{"late", ""}), 0)
	for _, how := range []string{"cpio", "gzip", "zstd", "lz4", "xz", "lzma"} {
		t.Run(how, func(t *testing.T) {
			b := append(bytes.Clone(early), pack(t, how, main)...)
			fs, err := scan(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := fs.members["kernel/x86/microcode/GenuineIntel.bin"]; !ok || string(fs.contents[loadList]) != "ahci\n" || len(fs.archives) != 2 || fs.archives[1] != how {
				t.Errorf("%d members, %q, %q", len(fs.members), fs.contents, fs.archives)
			}
			fs, err = scan(append(b, padded(late, int64(len(b)))...))
			if err != nil {
				t.Fatal(err)
			}
			open := how == "xz" || how == "lzma" // they do not say where they end
			if fs.rest != open {
				t.Errorf("rest: %v", fs.rest)
			}
			if _, ok := fs.members["late"]; ok == open || !open && string(fs.contents[loadList]) != "ahci\nvirtio_blk\n" {
				t.Errorf("what was appended: %v, %q", ok, fs.contents)
			}
			for cut := 1; cut < len(b); cut = cut*2 + 1 {
				if _, err := scan(b[:len(b)-cut]); err == nil && how != "cpio" && how != "gzip" && cut > 600 {
					t.Errorf("without its last %d bytes it is taken for whole", cut)
				}
			}
		})
	}
	for what, b := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 9999), "text": []byte("hello"), "lzo": []byte("\x89LZO\x00")} {
		if _, err := scan(b); err == nil {
			t.Errorf("%s is taken for an initramfs", what)
		}
	}
	if _, err := scan(pack(t, "gzip", cpioOf(t, [2]string{"zeros", string(make([]byte, 5<<20))}))); err == nil || !strings.Contains(err.Error(), "unpacks to more") {
		t.Errorf("5 MiB of zeros in few bytes: %v", err)
	}
	bomb := pack(t, "xz", main)
	copy(bomb[12:], []byte{2, 0, 0x21, 1, 40}) // the dictionary of 4 GiB
	if _, err := scan(bomb); err == nil || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("a dictionary of 4 GiB: %v", err)
	}
}

// The tools that build real ones agree on what we read and write.
func TestAgainstTools(t *testing.T) {
	main := cpioOf(t, [2]string{"a/", ""}, [2]string{loadList, "ahci\n"}, [2]string{"a/b", strings.Repeat("words and words and words, ", 5000)})
	for _, tool := range [][]string{{"lz4", "-l", "-9", "-q", "-c"}, {"xz", "--check=crc32", "-c"}, {"gzip", "-c"}, {"zstd", "-q", "-19", "-c"}, {"bzip2", "-c"}, {"xz", "--format=lzma", "-c"}} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			t.Logf("no %s here", tool[0])
			continue
		}
		c := exec.Command(tool[0], tool[1:]...)
		c.Stdin = bytes.NewReader(main)
		packed, err := c.Output()
		if err != nil {
			t.Fatalf("%q: %v", tool, err)
		}
		fs, err := scan(packed)
		if err != nil || len(fs.members) != 3 || string(fs.contents[loadList]) != "ahci\n" {
			t.Errorf("%q: %v %+v", tool, err, fs)
		}
		if strings.HasPrefix(tool[0], "lz4") {
			if fs, err = scan(append(packed, padded(main, int64(len(packed)))...)); err != nil || len(fs.archives) != 2 {
				t.Errorf("%q, and another behind it: %v", tool, err)
			}
		}
	}
	if _, err := exec.LookPath("cpio"); err != nil {
		if os.Getenv("CI") != "" || os.Geteuid() == 0 {
			t.Fatal("MISSING: cpio: deploy/ci/need.sh test")
		}
		t.Skip("MISSING: cpio: archives were not compared with those of another program")
	}
	c := exec.Command("cpio", "-it", "--quiet")
	c.Stdin = bytes.NewReader(main)
	if out, err := c.CombinedOutput(); err != nil || string(out) != "a\nconf/modules\na/b\n" {
		t.Errorf("cpio reads %q: %v", out, err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	c = exec.Command("sh", "-c", "find . | cpio -o -H newc --quiet")
	c.Dir = dir
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := scan(out)
	if err != nil || fs.members["x"]&modeType != modeFile {
		t.Errorf("what cpio wrote: %v %v", err, fs)
	}
}

// The bytes of an archive of ours do not change by themselves.
func TestGoldenArchive(t *testing.T) {
	const want = "070701" + "00000001" + "000041ed" + "00000000" + "00000000" + "00000002" + "00000000" +
		"00000000" + "00000000" + "00000000" + "00000000" + "00000000" + "00000002" + "00000000" + "a\x00"
	if got := string(cpioOf(t, [2]string{"a/", ""})[:112]); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// "hello hello hello hello" as lz4 -l makes it.
	z, err := io.ReadAll(&lz4Legacy{r: strings.NewReader("\x02\x21\x4c\x18\x0f\x00\x00\x00\x68hello \x06\x00\x50hello")})
	if err != nil || string(z) != "hello hello hello hello" {
		t.Errorf("%q %v", z, err)
	}
}

func FuzzInitramfs(f *testing.F) {
	main := cpioOf(f, [2]string{"a/", ""}, [2]string{loadList, "ahci\n"})
	for _, how := range []string{"cpio", "gzip", "zstd", "lz4", "xz", "lzma"} {
		f.Add(append(pack(f, how, main), padded(main, 0)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fs, err := scan(b)
		if (fs == nil) == (err == nil) {
			t.Error("neither an initramfs nor an error")
		}
	})
}
