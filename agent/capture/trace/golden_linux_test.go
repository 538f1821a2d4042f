package trace

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

var update = flag.Bool("update", false, "record testdata from this machine's kernel")

// The golden pages were recorded from a kernel together with what the kernel itself
// printed about the same events: pages.bin holds a length word before each page,
// events.txt the kernel's lines.
func TestGoldenPages(t *testing.T) {
	if *update {
		recordGolden(t)
	}
	l, err := parseLayout(readTestdata(t, "format"), readTestdata(t, "header_page"))
	if err != nil {
		t.Fatal(err)
	}
	var got []event
	var misses int
	for _, p := range splitPages(t, readTestdata(t, "pages.bin")) {
		missed, _, err := l.page(p, &sink{done: func(e event) { got = append(got, e) }})
		if err != nil {
			t.Fatal(err)
		}
		if missed {
			misses++
		}
	}
	want := printed(t, string(readTestdata(t, "events.txt")))
	if misses != 0 || len(want) < 100 || !slices.Equal(got, want) {
		t.Fatalf("%d events, the kernel printed %d; %d pages with missed events", len(got), len(want), misses)
	}
	misses = 0
	for _, p := range splitPages(t, readTestdata(t, "overrun.bin")) {
		if missed, _, err := l.page(p, &sink{done: func(event) {}}); err != nil {
			t.Fatal(err)
		} else if missed {
			misses++
		}
	}
	if misses == 0 {
		t.Fatal("the overrun was not noticed")
	}
}

func splitPages(t *testing.T, b []byte) (pages [][]byte) {
	t.Helper()
	for len(b) > 4 {
		n := int(binary.LittleEndian.Uint32(b))
		if n > len(b)-4 {
			t.Fatal("pages are cut short")
		}
		pages, b = append(pages, b[4:4+n]), b[4+n:]
	}
	return pages
}

var line = regexp.MustCompile(`block_rq_complete: \d+,\d+ ([A-Z]+) \(\) (\d+) \+ (\d+) `)

// printed reads the kernel's own words.
func printed(t *testing.T, text string) (events []event) {
	t.Helper()
	for l := range strings.Lines(text) {
		m := line.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		sector, _ := strconv.ParseUint(m[2], 10, 64)
		count, _ := strconv.ParseUint(m[3], 10, 32)
		if count == 0 {
			continue // a flush
		}
		k := kindWrite
		if strings.HasPrefix(m[1], "D") {
			k = kindDiscard
		}
		events = append(events, event{sector, uint32(count), k})
	}
	return events
}

// recordGolden writes testdata anew.
func recordGolden(t *testing.T) {
	disktest.NeedRoot(t, "blkdiscard")
	path := disktest.Loop(t, 8<<20)
	dev, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := ensureTracefs(DefaultRoot); err != nil {
		t.Fatal(err)
	}
	pages, text := recordPages(t, dev, 1024)
	overrun, _ := recordPages(t, dev, 8)
	for name, from := range map[string]string{"format": eventPath + "/format", "header_page": "events/header_page"} {
		b, err := os.ReadFile(filepath.Join(DefaultRoot, from))
		if err != nil {
			t.Fatal(err)
		}
		save(t, name, b)
	}
	save(t, "pages.bin", pages)
	save(t, "events.txt", text)
	save(t, "overrun.bin", overrun)
}

func save(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("testdata", name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// recordPages records from CPU 0, where the writer is kept, so that the kernel's
// text has the order of the pages.
func recordPages(t *testing.T, dev *disk.Disk, kb int) (pages, text []byte) {
	t.Helper()
	in, err := newInstance(DefaultRoot, fmt.Sprintf("golden%d", kb))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := in.remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := in.configure([]watched{{eventPath, filterOf(dev.Major(), dev.Minor())}}, kb); err != nil {
		t.Fatal(err)
	}
	if kb < 100 { // loses the oldest, which leaves its mark on a page
		if err := in.write("trace_options", "overwrite"); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.write("tracing_on", "1"); err != nil {
		t.Fatal(err)
	}
	for range max(1, 100/kb) {
		scribble(t, dev.Path())
	}
	if err := in.write("tracing_on", "0"); err != nil {
		t.Fatal(err)
	}
	rings, err := in.openRings()
	if err != nil {
		t.Fatal(err)
	}
	defer closeRings(rings)
	page := make([]byte, 4096)
	for cpu, r := range rings {
		b, err := os.ReadFile(filepath.Join(in.dir, fmt.Sprintf("per_cpu/cpu%d/trace", cpu)))
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, b...)
		for {
			n, err := r.read(page)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			used := page[:n]
			pages = binary.LittleEndian.AppendUint32(pages, uint32(len(used)))
			pages = append(pages, used...)
		}
	}
	return pages, text
}

// scribble writes in many ways.
func scribble(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := disk.AlignedBuffer(64 << 10)
	for i := range 300 {
		n := 512 << (i % 8)
		if _, err := f.WriteAt(buf[:n], int64(i*4096+i%8*512)); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.ReadAt(buf[:4096], 0); err != nil {
			t.Fatal(err)
		}
	}
	disktest.Run(t, "blkdiscard", "-o", "1048576", "-l", "65536", path)
	disktest.Run(t, "blkdiscard", "-z", "-o", "2097152", "-l", "65536", path)
}

// TestFollowsThisKernel holds the parser against what this machine's kernel prints.
func TestFollowsThisKernel(t *testing.T) {
	disktest.NeedRoot(t, "blkdiscard")
	dev, err := disk.Open(disktest.Loop(t, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := Probe(dev); err != nil {
		t.Fatal(err)
	}
	lay, err := readLayout(DefaultRoot)
	if err != nil {
		t.Fatal(err)
	}
	pages, text := recordPages(t, dev, 1024)
	var got []event
	for _, p := range splitPages(t, pages) {
		if _, _, err := lay.page(p, &sink{done: func(e event) { got = append(got, e) }}); err != nil {
			t.Fatal(err)
		}
	}
	want := printed(t, string(bytes.TrimSpace(text)))
	if len(want) < 300 || !slices.Equal(got, want) {
		t.Fatalf("%d events, the kernel printed %d", len(got), len(want))
	}
}
