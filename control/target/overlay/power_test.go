package overlay

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// power is a host whose power can fail: what was not synced is then there or not, in
// pieces that the disk writes at once.
type power struct {
	files map[string]*powerFile
	left  int // operations before it fails
	off   bool
	r     *rand.Rand
}

type powerFile struct {
	p       *power
	unit    int // bytes that are old or new, never a mix
	now     []byte
	safe    []byte
	named   bool // its name is durable
	pending []pending
}

type pending struct {
	off  int
	data []byte
}

var errPower = errors.New("the power is off")

func (p *power) op() error {
	if p.left--; p.left < 0 {
		p.off = true
	}
	if p.off {
		return errPower
	}
	return nil
}

// restore is the host after the power has come back.
func (p *power) restore() {
	for path, f := range maps.Clone(p.files) {
		if !f.named && p.r.IntN(2) == 0 {
			delete(p.files, path)
			continue
		}
		for _, w := range f.pending {
			for at := 0; at < len(w.data); at += f.unit {
				if p.r.IntN(2) == 0 {
					copy(f.safe[w.off+at:], w.data[at:min(at+f.unit, len(w.data))])
				}
			}
		}
		f.now, f.pending, f.named = append([]byte(nil), f.safe...), nil, true
	}
	p.off = false
}

func (p *power) open(path string) (file, error) {
	if err := p.op(); err != nil {
		return nil, err
	}
	if f := p.files[path]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

func (p *power) make(path string, size int64) (file, error) {
	if err := p.op(); err != nil {
		return nil, err
	}
	if p.files[path] != nil {
		return nil, fs.ErrExist
	}
	f := &powerFile{p: p, unit: 512, now: make([]byte, size), safe: make([]byte, size)}
	p.files[path] = f
	return f, nil
}

func (p *power) put(path string, size int64, begin []byte) (file, error) {
	if err := p.op(); err != nil {
		return nil, err
	}
	f := &powerFile{p: p, unit: 8, now: make([]byte, size), safe: make([]byte, size), named: true}
	copy(f.now, begin)
	copy(f.safe, begin)
	p.files[path] = f
	return f, nil
}

func (p *power) exists(path string) (bool, error) { return p.files[path] != nil, p.op() }

func (p *power) remove(path string) error {
	err := p.op()
	if err == nil {
		delete(p.files, path)
	}
	return err
}

func (p *power) settle(path string) error {
	err := p.op()
	if f := p.files[path]; err == nil && f != nil {
		f.named = true
	}
	return err
}

func (f *powerFile) ReadAt(b []byte, off int64) (int, error) {
	if off >= int64(len(f.now)) {
		return 0, io.EOF
	}
	n := copy(b, f.now[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *powerFile) WriteAt(b []byte, off int64) (int, error) {
	err := f.p.op()
	if f.p.off && f.p.left < -1 {
		return 0, err // the one in whose middle the power failed may leave something
	}
	copy(f.now[off:], b)
	f.pending = append(f.pending, pending{int(off), append([]byte(nil), b...)})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (f *powerFile) punch(off, length int64) error {
	if f.p.r.IntN(3) == 0 {
		return errors.ErrUnsupported
	}
	_, err := f.WriteAt(make([]byte, length), off)
	return err
}

func (f *powerFile) sync() error {
	if err := f.p.op(); err != nil {
		return err
	}
	f.pending = nil
	f.safe = append([]byte(nil), f.now...)
	return nil
}

func (f *powerFile) Close() error { return nil }

// flat is a base every sector of which holds one byte.
type flat []byte

func (b flat) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = b[(off+int64(i))/sector]
	}
	return len(p), nil
}
func (b flat) Size() int64 { return int64(len(b)) * sector }
func (b flat) Extents(yield func(off, length int64) bool) {
	for s, v := range b {
		if v != 0 && !yield(int64(s)*sector, sector) {
			return
		}
	}
}
func (b flat) Digest() [32]byte { return [32]byte{1} }

const sector = 512

// promised says what a sector may hold after a failure: what it held at the last flush
// and everything that was written to it since.
type promised []map[byte]bool

func (m promised) wrote(first, n int, v byte) {
	for i := range n {
		m[first+i][v] = true
	}
}

// TestPowerFails is the promise of Flush: whenever the power fails, what was flushed is
// there, and each sector holds something that was written to it.
func TestPowerFails(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sectors := rapid.IntRange(1, 100).Draw(t, "sectors")
		base := make(flat, sectors)
		m := make(promised, sectors)
		for i := range base {
			base[i] = byte(rapid.IntRange(0, 1).Draw(t, "base"))
			m[i] = map[byte]bool{base[i]: true}
		}
		p := &power{files: map[string]*powerFile{}, r: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))}
		value := byte(1)
		for range rapid.IntRange(1, 4).Draw(t, "failures") {
			p.left = 1 << 30
			o, err := open(base, "disk", p)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			now := check(t, o, m)
			o.Track()
			p.left = rapid.IntRange(1, 60).Draw(t, "operations")
			for !p.off {
				first := rapid.IntRange(0, sectors-1).Draw(t, "first")
				n := rapid.IntRange(1, min(40, sectors-first)).Draw(t, "n")
				off, length := int64(first)*sector, int64(n)*sector
				switch rapid.IntRange(0, 3).Draw(t, "what") {
				case 0:
					value++
					m.wrote(first, n, value)
					b := make([]byte, length)
					for i := range b {
						b[i] = value
					}
					if _, err = o.WriteAt(b, off); err == nil {
						copy(now[first:], repeat(value, n))
					}
				case 1:
					m.wrote(first, n, 0)
					if err = o.WriteZeroes(off, length); err == nil {
						copy(now[first:], repeat(0, n))
					}
				default:
					if err = o.Flush(); err == nil {
						for i := range m {
							m[i] = map[byte]bool{now[i]: true}
						}
					}
				}
				if err != nil && !p.off {
					t.Fatalf("%v", err)
				}
			}
			p.restore()
		}
	})
}

func repeat(v byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = v
	}
	return b
}

// check reads every sector and compares it with what was promised.
func check(t interface{ Fatalf(string, ...any) }, o *Overlay, m promised) []byte {
	b := make([]byte, o.Size())
	if _, err := o.ReadAt(b, 0); err != nil {
		t.Fatalf("read: %v", err)
	}
	now := make([]byte, len(m))
	for i := range m {
		s := b[i*sector : (i+1)*sector]
		now[i] = s[0]
		for _, v := range s {
			if v != s[0] {
				t.Fatalf("sector %d is torn", i)
			}
		}
		if !m[i][s[0]] {
			t.Fatalf("sector %d holds %d, which is none of %v", i, s[0], m[i])
		}
	}
	return now
}

// After a disk has refused to keep something once, nothing is promised any more.
func TestFlushThatFailedOnceFails(t *testing.T) {
	p := &power{files: map[string]*powerFile{}, left: 1 << 30, r: rand.New(rand.NewPCG(1, 1))}
	o, err := open(make(flat, 64), "disk", p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	p.off = true
	if o.Flush() == nil {
		t.Fatal("a flush without power says that it worked")
	}
	p.off, p.left = false, 1<<30
	if o.Flush() == nil {
		t.Error("the one after a flush that failed says that it worked")
	}
}
