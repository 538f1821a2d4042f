package quiesce

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func socketPair(t *testing.T) (int, int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pair[0], pair[1]
}

func TestMessagesCarryDescriptors(t *testing.T) {
	a, b := socketPair(t)
	defer unix.Close(b)
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fds := make([]int, maxMounts)
	for i := range fds {
		fds[i] = int(f.Fd())
	}
	if err := send(a, message{sayArm, 7, time.Second, fds}); err != nil {
		t.Fatal(err)
	}
	m, err := receive(b)
	if err != nil || m.verb != sayArm || m.number != 7 || m.bound != time.Second || len(m.fds) != maxMounts {
		t.Fatalf("got %c %d %v with %d descriptors, %v", m.verb, m.number, m.bound, len(m.fds), err)
	}
	closeAll(m.fds)
	if err := unix.Close(a); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(b); !errors.Is(err, io.EOF) {
		t.Fatalf("from a closed socket: %v", err)
	}
	if err := send(b, message{verb: sayReady}); err == nil {
		t.Fatal("sent to a closed socket")
	}
}

func TestGuardEndsOnNonsense(t *testing.T) {
	a, b := socketPair(t)
	defer unix.Close(a)
	defer unix.Close(b)
	code := make(chan int, 1)
	go func() { code <- (&guard{fd: b}).run() }()
	if err := unix.Sendmsg(a, []byte("nonsense"), nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	if c := <-code; c != 1 {
		t.Fatalf("exit code %d", c)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(message{sayArm, 1, time.Second, nil}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err == nil && string(m.encode()) != string(b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b, m, m.encode())
		}
	})
}

func FuzzMapping(f *testing.F) {
	f.Add("00400000-00800000 r-xp 00000000 fe:00 123 /usr/bin/leeward-agent", "/usr/bin/leeward-agent")
	f.Add("zz-1 /x", "/x")
	f.Fuzz(func(t *testing.T, line, file string) {
		if from, to, ok := mappingOf(line, file); ok && to <= from {
			t.Fatalf("%q maps %x-%x", line, from, to)
		}
	})
}

func TestMapping(t *testing.T) {
	from, to, ok := mappingOf("00400000-00800000 r-xp 00000000 fe:00 123   /usr/bin/a b", "/usr/bin/a b")
	if !ok || from != 0x400000 || to != 0x800000 {
		t.Errorf("got %x-%x %v", from, to, ok)
	}
	if _, _, ok := mappingOf("00400000-00800000 r-xp 00000000 fe:00 123 /usr/bin/other", "/usr/bin/a b"); ok {
		t.Error("another file's mapping")
	}
}
