package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// array is a disk in memory; its second half is a hole until it is written.
type array struct {
	mu     sync.Mutex
	b      []byte
	full   bool
	fail   error
	calls  int
	inside int
	most   int
	block  chan struct{} // if set, reads wait for it
}

func (a *array) Size() int64 { return int64(len(a.b)) }

func (a *array) do(f func()) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if a.fail == nil {
		f()
	}
	return a.fail
}

func (a *array) ReadAt(p []byte, off int64) (int, error) {
	if a.block != nil {
		a.mu.Lock()
		a.inside++
		a.most = max(a.most, a.inside)
		a.mu.Unlock()
		<-a.block
		a.mu.Lock()
		a.inside--
		a.mu.Unlock()
	}
	if err := a.do(func() { copy(p, a.b[off:]) }); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (a *array) WriteAt(p []byte, off int64) (int, error) {
	return len(p), a.do(func() { copy(a.b[off:], p); a.full = true })
}
func (a *array) Flush() error                 { return a.do(func() {}) }
func (a *array) Trim(off, length int64) error { return a.WriteZeroes(off, length) }
func (a *array) WriteZeroes(off, length int64) error {
	return a.do(func() { clear(a.b[off : off+length]) })
}

func (a *array) Extents(off, length int64, yield func(off, length int64, hole bool) bool) {
	half := int64(len(a.b) / 2)
	a.mu.Lock()
	if a.full {
		half = int64(len(a.b))
	}
	a.mu.Unlock()
	if off < half {
		n := min(length, half-off)
		if !yield(off, n, false) {
			return
		}
		off, length = off+n, length-n
	}
	if length > 0 {
		yield(off, length, true)
	}
}

// peer talks to a server by hand.
type peer struct {
	t testing.TB
	net.Conn
}

// dial connects to a server with one export, "d".
func dial(t *testing.T, e Export) *peer {
	t.Helper()
	s, err := NewServer(nil, Config{Name: "d", Description: "a disk", Export: e})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := Listen(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	c, err := net.Dial("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		c.Close()
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("the server left %v", left)
		}
	})
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	return &peer{t, c}
}

func (p *peer) take(n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p, b); err != nil {
		p.t.Fatalf("the server hung up: %v", err)
	}
	return b
}

func (p *peer) put(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) hello() {
	p.t.Helper()
	p.take(18)
	p.put([]byte{0, 0, 0, 3})
}

func optionBytes(opt uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, opt), uint32(len(data)))
	return append(b, data...)
}

// option sends an option and returns the kinds of its replies and the last's data.
func (p *peer) option(opt uint32, data []byte) (kinds []uint32, last []byte) {
	p.t.Helper()
	p.put(optionBytes(opt, data))
	for {
		h := p.take(20)
		kind := binary.BigEndian.Uint32(h[12:])
		b := p.take(int(binary.BigEndian.Uint32(h[16:])))
		kinds = append(kinds, kind)
		if kind == repAck || kind&repError != 0 {
			return kinds, last
		}
		last = b
	}
}

func requestBytes(r request) []byte {
	be := binary.BigEndian
	b := be.AppendUint32(nil, magicRequest)
	b = be.AppendUint16(be.AppendUint16(b, r.flags), r.cmd)
	return be.AppendUint32(be.AppendUint64(be.AppendUint64(b, r.cookie), r.off), r.length)
}

// ask sends a request and returns the simple reply's error.
func (p *peer) ask(r request, payload []byte) syscall.Errno {
	p.t.Helper()
	p.put(append(requestBytes(r), payload...))
	h := p.take(16)
	if binary.BigEndian.Uint64(h[8:]) != r.cookie {
		p.t.Fatal("the answer to another request")
	}
	return syscall.Errno(binary.BigEndian.Uint32(h[4:]))
}

func kindsAre(t *testing.T, what string, got []uint32, want ...uint32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: replies %#x, not %#x", what, got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: replies %#x, not %#x", what, got, want)
		}
	}
}

func TestNegotiation(t *testing.T) {
	p := dial(t, &array{b: make([]byte, 1<<20)})
	p.hello()
	kinds, _ := p.option(5, nil) // STARTTLS
	kindsAre(t, "TLS", kinds, repUnsup)
	kinds, _ = p.option(optSetMeta, metaData("d", contextAllocation))
	kindsAre(t, "context before structured replies", kinds, repInvalid)
	kinds, _ = p.option(optStructuredReply, []byte{1})
	kindsAre(t, "structured reply with data", kinds, repInvalid)
	kinds, _ = p.option(optStructuredReply, nil)
	kindsAre(t, "structured reply", kinds, repAck)
	kinds, last := p.option(optListMeta, metaData("d"))
	kindsAre(t, "all contexts", kinds, repMeta, repAck)
	if string(last[4:]) != contextAllocation {
		t.Errorf("context %q", last)
	}
	kinds, _ = p.option(optListMeta, metaData("d", "qemu:"))
	kindsAre(t, "contexts of others", kinds, repAck)
	kinds, _ = p.option(optSetMeta, metaData("e", contextAllocation))
	kindsAre(t, "context of no export", kinds, repUnknown)
	kinds, last = p.option(optList, nil)
	kindsAre(t, "list", kinds, repServer, repAck)
	if string(last) != "\x00\x00\x00\x01da disk" {
		t.Errorf("list says %q", last)
	}
	kinds, _ = p.option(optInfo, goData("nope"))
	kindsAre(t, "no such export", kinds, repUnknown)
	kinds, _ = p.option(optInfo, []byte{1})
	kindsAre(t, "malformed", kinds, repInvalid)
	kinds, _ = p.option(optInfo, make([]byte, maxOption+1))
	kindsAre(t, "too long", kinds, repTooBig)
	kinds, _ = p.option(optInfo, goData("d", infoName, infoDescription, infoName, 99))
	kindsAre(t, "info", kinds, repInfo, repInfo, repInfo, repInfo, repAck)
	kinds, _ = p.option(optGo, goData("d"))
	kindsAre(t, "go", kinds, repInfo, repInfo, repAck)
	if e := p.ask(request{cmd: cmdCache, length: 1}, nil); e != 0 {
		t.Errorf("cache: %v", e)
	}
}

func TestOldWayIn(t *testing.T) {
	p := dial(t, &array{b: bytes.Repeat([]byte("x"), 1<<20)})
	p.take(18)
	p.put([]byte{0, 0, 0, 1}) // wants the zeroes
	p.put(optionBytes(optExportName, []byte("d")))
	if b := p.take(8 + 2 + 124); binary.BigEndian.Uint64(b) != 1<<20 {
		t.Fatalf("size is %x", b[:8])
	}
	if e := p.ask(request{cmd: cmdRead, off: 5, length: 3}, nil); e != 0 {
		t.Fatal(e)
	}
	if string(p.take(3)) != "xxx" {
		t.Error("read something else")
	}
}

func TestBadClientsAreDropped(t *testing.T) {
	for name, say := range map[string]func(p *peer){
		"unknown client flag": func(p *peer) { p.take(18); p.put([]byte{0, 0, 1, 1}) },
		"old style":           func(p *peer) { p.take(18); p.put([]byte{0, 0, 0, 0}) },
		"no magic in option":  func(p *peer) { p.hello(); p.put(make([]byte, 16)) },
		"no such export":      func(p *peer) { p.hello(); p.put(optionBytes(optExportName, []byte("e"))) },
		"huge option":         func(p *peer) { p.hello(); p.put(optionBytes(optGo, nil)[:12]); p.put([]byte{0xff, 0, 0, 0}) },
		"no magic in request": func(p *peer) { p.hello(); p.option(optGo, goData("d")); p.put(make([]byte, requestSize)) },
		"leaves":              func(p *peer) { p.hello(); p.put(optionBytes(optAbort, nil)); p.take(20) },
		"options for ever": func(p *peer) {
			p.hello()
			for range maxOptions {
				p.option(optList, nil)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := dial(t, &array{b: make([]byte, 4096)})
			say(p)
			// Unread bytes may turn the end into a reset.
			if n, err := p.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the server goes on: %d bytes, %v", n, err)
			}
		})
	}
}

// Requests that fail are answered, and the connection goes on.
func TestErrorsKeepTheConnection(t *testing.T) {
	a := &array{b: make([]byte, 1<<20)}
	p := dial(t, a)
	p.hello()
	p.option(optGo, goData("d"))
	fail := func(err error) { a.mu.Lock(); a.fail = err; a.mu.Unlock() }
	for i, c := range []struct {
		r       request
		payload []byte
		fail    error
		want    syscall.Errno
	}{
		{request{cmd: cmdRead, length: 512}, nil, errors.New("fire"), syscall.EIO},
		{request{cmd: cmdWrite, length: 4}, []byte("data"), syscall.ENOSPC, syscall.ENOSPC},
		{request{cmd: cmdFlush}, nil, errors.New("fire"), syscall.EIO},
		{request{cmd: cmdWrite, off: 1 << 20, length: 4}, []byte("data"), nil, syscall.ENOSPC},
		{request{cmd: cmdWrite, length: MaxRequest + 4096}, make([]byte, MaxRequest+4096), nil, syscall.ENOSPC},
		{request{cmd: 99, length: 1 << 30}, nil, nil, syscall.EINVAL},
		{request{cmd: cmdBlockStatus, length: 512}, nil, nil, syscall.EINVAL},
		{request{cmd: cmdWrite, length: 4, flags: cmdFUA}, []byte("data"), nil, 0},
	} {
		fail(c.fail)
		c.r.cookie = uint64(i) + 77
		if got := p.ask(c.r, c.payload); got != c.want {
			t.Errorf("request %d: %v, not %v", i, got, c.want)
		}
	}
	if e := p.ask(request{cmd: cmdRead, length: 4}, nil); e != 0 || string(p.take(4)) != "data" {
		t.Errorf("after all that a read fails: %v", e)
	}
}

func TestStructuredRead(t *testing.T) {
	const size = 1 << 20
	a := &array{b: bytes.Repeat([]byte("x"), size)}
	clear(a.b[size/2:])
	p := dial(t, a)
	p.hello()
	p.option(optStructuredReply, nil)
	p.option(optSetMeta, metaData("d", contextAllocation))
	p.option(optGo, goData("d"))
	chunkIs := func(flags, kind uint16) []byte {
		t.Helper()
		h := p.take(20)
		if f, k := binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:]); f != flags || k != kind {
			t.Fatalf("chunk has flags %d and type %d, not %d and %d", f, k, flags, kind)
		}
		return p.take(int(binary.BigEndian.Uint32(h[16:])))
	}
	p.put(requestBytes(request{cmd: cmdRead, off: size/2 - 100, length: 100 + minHole}))
	if b := chunkIs(0, chunkData); len(b) != 108 || b[8] != 'x' {
		t.Errorf("data chunk has %d bytes", len(b))
	}
	if b := chunkIs(chunkDone, chunkHole); binary.BigEndian.Uint64(b) != size/2 || binary.BigEndian.Uint32(b[8:]) != minHole {
		t.Errorf("hole chunk is %x", b)
	}
	p.put(requestBytes(request{cmd: cmdRead, flags: cmdDF, off: size / 2, length: minHole}))
	if b := chunkIs(chunkDone, chunkData); len(b) != 8+minHole {
		t.Errorf("with DF %d bytes", len(b))
	}
	p.put(requestBytes(request{cmd: cmdRead}))
	chunkIs(chunkDone, chunkNone)
	p.put(requestBytes(request{cmd: cmdBlockStatus, length: size}))
	if b := chunkIs(chunkDone, chunkBlockStatus); !bytes.Equal(b, []byte{0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 3}) {
		t.Errorf("block status is %x", b)
	}
	p.put(requestBytes(request{cmd: cmdBlockStatus, flags: cmdReqOne, length: size}))
	if b := chunkIs(chunkDone, chunkBlockStatus); len(b) != 12 {
		t.Errorf("one extent has %d bytes", len(b))
	}
	a.fail = errors.New("fire")
	p.put(requestBytes(request{cmd: cmdRead, length: 10}))
	if b := chunkIs(chunkDone, chunkError); binary.BigEndian.Uint32(b) != uint32(syscall.EIO) || !strings.Contains(string(b), "fire") {
		t.Errorf("error chunk is %q", b)
	}
}

// A connection has MaxRequests requests in flight and no more, and only MaxBytes.
func TestLimitsOfAConnection(t *testing.T) {
	for _, c := range []struct {
		length uint32
		most   int
	}{{512, MaxRequests}, {MaxBytes / 4, 4}} {
		a := &array{b: make([]byte, MaxBytes), block: make(chan struct{})}
		p := dial(t, a)
		p.hello()
		p.option(optGo, goData("d"))
		const requests = 3 * MaxRequests
		for i := range requests {
			p.put(requestBytes(request{cmd: cmdRead, cookie: uint64(i), length: c.length}))
		}
		inside := func() int { a.mu.Lock(); defer a.mu.Unlock(); return a.inside }
		targettest.WaitFor(t, 10*time.Second, "requests are in flight", func() bool { return inside() >= c.most })
		close(a.block)
		for range requests {
			p.take(16 + int(c.length))
		}
		a.mu.Lock()
		if a.most != c.most {
			t.Errorf("%d requests of %d bytes were in flight, not %d", a.most, c.length, c.most)
		}
		a.mu.Unlock()
	}
}

func TestTooManyClients(t *testing.T) {
	p := dial(t, &array{b: make([]byte, 4096)})
	p.hello()
	path := p.RemoteAddr().String()
	for range MaxConns - 1 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		(&peer{t, c}).take(18)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("one client too many is served")
	}
	if kinds, _ := p.option(optList, nil); len(kinds) != 2 {
		t.Error("the first client is not served any more")
	}
}

func TestListenInADeepDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 40))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(nil, Config{Name: "d", Export: &array{b: bytes.Repeat([]byte("y"), 5000)}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, l) }()
	c, err := Dial(t.Context(), dir, "s", "d")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6000)
	if n, err := c.ReadAt(b, 0); n != 5000 || err != io.EOF || b[4999] != 'y' {
		t.Errorf("read %d bytes: %v", n, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), dir, "s", "e"); err == nil || !strings.Contains(err.Error(), "no such export") {
		t.Errorf("open what is not there: %v", err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// Contexts are negotiated for one export, by its name, and hold for no other.
func TestContextOfAnotherExport(t *testing.T) {
	for name, want := range map[string]uint16{"d": chunkBlockStatus, "": chunkError} {
		p := dial(t, &array{b: make([]byte, 1<<20)})
		p.hello()
		p.option(optStructuredReply, nil)
		p.option(optSetMeta, metaData(name, contextAllocation))
		p.option(optGo, goData("d"))
		p.put(requestBytes(request{cmd: cmdBlockStatus, length: 512}))
		if kind := binary.BigEndian.Uint16(p.take(20)[6:]); kind != want {
			t.Errorf("a context for %q gives a chunk of type %#x", name, kind)
		}
	}
}
