package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestCommandLineIsGolden(t *testing.T) {
	var got string
	for _, p := range []plan{
		{name: "web", cpus: 1, memoryMiB: 512, disks: 1, hardware: Compatible},
		{name: "a,b", cpus: 4, memoryMiB: 2048, disks: 8, hardware: Compatible, accel: withKVM[0], uefiCode: "/fw/code,4M.fd"},
		{name: "v", cpus: 1, memoryMiB: 512, disks: 2, hardware: Virtio, open: true},
	} {
		got += strings.ReplaceAll(strings.Join(p.args(), " "), " -", "\n-") + "\n\n"
	}
	golden := filepath.Join("testdata", "args.golden")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || got != string(want) {
		t.Errorf("the command line changed: %v\n%s", err, got)
	}
}

func TestWhatIsMissing(t *testing.T) {
	m := machine(targettest.Mem("sda", make([]byte, 1<<20)))
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Binary: "qemu-system-nowhere"}, "qemu-system-nowhere not found: apt-get install qemu-system-x86"},
		{Config{Hardware: "floppy"}, `hardware "floppy"`},
		{Config{Binary: "true", MaxMemory: 1 << 20}, "1 MiB of memory"},
	} {
		if err := New(c.cfg).Validate(t.Context(), m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, not %q", err, c.want)
		}
	}
	for range maxDisks {
		m.Disks = append(m.Disks, m.Disks[0])
	}
	if err := New(Config{Binary: "true"}).Validate(t.Context(), m); err == nil || !strings.Contains(err.Error(), "has 25 disks") {
		t.Errorf("too many disks: %v", err)
	}
	if _, err := findFirmware([]firmware{{"/nowhere", "/nowhere"}}); err == nil || !strings.Contains(err.Error(), "apt-get install ovmf") {
		t.Errorf("no firmware: %v", err)
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		limit, want, got int64
	}{{1 << 30, 0, 1 << 30}, {4 << 30, 0, defaultMemory}, {1 << 30, 64 << 30, 1 << 30}, {1 << 30, 1, leastMemory}} {
		if got, err := New(Config{MaxMemory: c.limit}).memory(c.want); err != nil || got != c.got {
			t.Errorf("%d of %d: %d, %v", c.want, c.limit, got, err)
		}
	}
	for _, c := range []struct {
		limit, want int
		kvm         bool
		got         int
	}{{0, 0, false, 1}, {0, 8, false, 1}, {4, 8, false, 4}, {2, 1, true, 1}, {2, 0, true, 1}} {
		if got := New(Config{MaxCPUs: c.limit}).cpus(c.want, c.kvm); got != c.got {
			t.Errorf("%d CPUs of %d, KVM %v: %d", c.want, c.limit, c.kvm, got)
		}
	}
}

// A QEMU that does not start is an error that says why, and leaves no socket.
func TestDoesNotStart(t *testing.T) {
	fake := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\necho noise\necho \"qemu: no such machine: q35\" >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := machine(targettest.Mem("sda", make([]byte, 1<<20)))
	_, err := New(Config{Binary: fake}).Start(t.Context(), m, dir)
	if err == nil || !strings.Contains(err.Error(), "qemu: no such machine: q35") || strings.Contains(err.Error(), "noise") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, nbdSocket)); err == nil {
		t.Error("a socket is left")
	}
}

func TestSerial(t *testing.T) {
	s := newSerial(time.Now())
	find := func(re string) (string, bool) {
		l := s.find(regexp.MustCompile(re), 0)
		return l.line, l.found
	}
	s.add([]byte("\x1b[H\x1b[J\x1b[1;"))
	if s.firstLine() != 0 {
		t.Error("an escape sequence is a line")
	}
	s.add([]byte("1H\r\n\x00\r\nHEARTBEAT boot=1\r\n\x1b[1;32mOK\x1b[0m\r\nlog"))
	if s.firstLine() == 0 || s.lines != 2 {
		t.Errorf("%d lines, the first after %v", s.lines, s.firstLine())
	}
	if line, ok := find("^OK$"); !ok {
		t.Errorf("colours get in the way: %q", line)
	}
	if l := s.find(regexp.MustCompile("^log"), 0); !l.found || !l.partial {
		t.Errorf("a line that goes on: %+v", l)
	}
	s.add([]byte("in: "))
	if line, ok := find("login:$"); !ok || line != "login:" {
		t.Errorf("a prompt is not found: %q", line)
	}
	if _, ok := find("^log$"); ok {
		t.Error("half a line is found when all of it is there")
	}
	if !strings.Contains(s.summary(), "2 lines on the serial line, the last: login:") {
		t.Error(s.summary())
	}
}

// A guest that never stops talking takes no more than its share.
func TestSerialIsBounded(t *testing.T) {
	s := newSerial(time.Now())
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r, w := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); s.read(r, log) }()
	noise := []byte(strings.Repeat("noise ", 10) + "\n")
	noise = bytes.Repeat(noise, (64<<10)/len(noise))
	for n := 0; n < maxSerialLog+1<<20; n += len(noise) {
		if _, err := w.Write(noise); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprint(w, "last words")
	w.Close()
	<-done
	if st, err := log.Stat(); err != nil || st.Size() != maxSerialLog {
		t.Errorf("the log has %d bytes: %v", st.Size(), err)
	}
	if len(s.text) > maxSerialText {
		t.Errorf("%d bytes are kept", len(s.text))
	}
	l := s.find(regexp.MustCompile("last words"), 0)
	if !l.found || !l.ended {
		t.Errorf("the end is lost: %+v", l)
	}
	if l := s.find(regexp.MustCompile("last"), l.next); !l.found {
		t.Error("going on from where the line was found does not find it")
	}
}

func TestConnectionState(t *testing.T) {
	const table = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n" +
		"  TCP[SYN_SENT]      14       127.0.0.1 45871       10.0.2.15  8080     0     0\r\n" +
		"  TCP[ESTABLISHED]   20       127.0.0.1 45872       10.0.2.15  8080     0     0\r\n" +
		"  TCP[SYN_SENT]      21       127.0.0.1 45872       10.0.2.15  8080     0     0\r\n" +
		"  TCP[HOST_FORWARD]  11       127.0.0.1 45873       10.0.2.15  8080     0     0\r\n" +
		"  UDP[236 sec]       12       10.0.2.15    68        10.0.2.2    67     0     0\r\n"
	for port, want := range map[int]string{45871: "SYN_SENT", 45872: "ESTABLISHED", 45873: "", 68: "", 1: ""} {
		if got := connection(table, port); got != want {
			t.Errorf("port %d: %q, not %q", port, got, want)
		}
	}
}

// fakeQEMU answers a monitor by what reply says to each line.
func fakeQEMU(t *testing.T, reply func(line string) string) (*monitor, chan event) {
	t.Helper()
	us, them := net.Pipe()
	events := make(chan event, 16)
	go func() {
		defer them.Close()
		fmt.Fprintln(them, `{"QMP": {"version": {}}}`)
		s := bufio.NewScanner(them)
		for s.Scan() {
			fmt.Fprint(them, reply(s.Text()))
		}
	}()
	m := newMonitor(us, func(e event) { events <- e })
	t.Cleanup(m.close)
	return m, events
}

func TestMonitor(t *testing.T) {
	m, events := fakeQEMU(t, func(line string) string {
		switch {
		case strings.Contains(line, `"first"`):
			return "not json\n{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n{\"return\": \"one\", \"id\": 1}\n"
		case strings.Contains(line, `"bad"`):
			return `{"error": {"class": "GenericError", "desc": "no such thing"}, "id": 2}` + "\n"
		case strings.Contains(line, `"stats"`) || strings.Contains(line, "query-blockstats"):
			return `{"return": [{"node-name": "disk0", "stats": {"rd_bytes": 5}}, {"node-name": "disk1", "stats": {"rd_bytes": 7}}, {"node-name": "vars", "stats": {"rd_bytes": 9}}], "id": 3}` + "\n"
		}
		return "" // no answer
	})
	ctx := t.Context()
	var answer string
	if err := m.call(ctx, "first", nil, &answer); err != nil || answer != "one" {
		t.Errorf("%q, %v", answer, err)
	}
	if e := <-events; e.Name != "RESET" {
		t.Errorf("event %q", e.Name)
	}
	if err := m.call(ctx, "bad", nil, nil); err == nil || err.Error() != "bad: no such thing" {
		t.Errorf("%v", err)
	}
	if n, err := m.bytesRead(ctx, 2); err != nil || n != 12 {
		t.Errorf("%d bytes, %v", n, err)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := m.call(short, "silence", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	if len(m.waiting) != 0 {
		t.Errorf("%d calls are still waited for", len(m.waiting))
	}
	m.conn.Close()
	if err := m.call(ctx, "after", nil, nil); !errors.Is(err, errGone) {
		t.Errorf("after its end: %v", err)
	}
}

func FuzzPPM(f *testing.F) {
	f.Add([]byte("P6\n2 1\n255\nabcdef"))
	f.Add([]byte("P6\n8000 8000\n255\n"))
	f.Add([]byte("P6\n-1 1\n255\n"))
	f.Add([]byte("P5\n2 1\n255\nabcdef"))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := decodePPM(bytes.NewReader(b))
		if err == nil && 3*img.Bounds().Dx()*img.Bounds().Dy() > len(b) {
			t.Errorf("%v pixels from %d bytes", img.Bounds(), len(b))
		}
	})
}

func FuzzSerial(f *testing.F) {
	f.Add([]byte("\x1b[0mlogin: "), 3)
	f.Add([]byte("a\r\n\n\x1b[\xff\n"), 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		s := newSerial(time.Now())
		cut = max(0, min(cut, len(b)))
		s.add(b[:cut])
		s.add(b[cut:])
		whole := newSerial(time.Now())
		whole.add(b)
		if s.lines != whole.lines || s.summary() != whole.summary() {
			t.Errorf("in two pieces: %q, in one: %q", s.summary(), whole.summary())
		}
		for _, r := range clean(b) {
			if r < ' ' {
				t.Errorf("%q is not clean", clean(b))
			}
		}
	})
}
