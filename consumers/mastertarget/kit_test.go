package mastertarget

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store"
)

const block = vault.BlockSize

var testDisk = vault.DiskID{Machine: "web1", Disk: "sda"}

// counted is a store that counts what is read from it.
type counted struct {
	store.Store
	read atomic.Int64
	hook func() // after each read, may be nil
}

func (c *counted) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := c.Store.Get(ctx, key, off, n)
	c.read.Add(int64(len(b)))
	if c.hook != nil {
		c.hook()
	}
	return b, err
}

// site is a vault with the history of one disk, and an image of that disk at home.
type site struct {
	v      *vault.Vault
	st     *counted
	w      *vault.DiskWriter
	home   string // image
	state  string
	image  []byte // of the disk, at the newest point
	points []*vault.PointDisk
	images map[vault.Position][]byte
	dir    string
}

func newSite(t testing.TB, size int) *site {
	t.Helper()
	ctx := context.Background()
	s := &site{dir: t.TempDir(), images: map[vault.Position][]byte{}, image: make([]byte, size)}
	s.home, s.state = filepath.Join(s.dir, "sda.img"), filepath.Join(s.dir, "state")
	if err := os.WriteFile(s.home, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "key"), []byte(rand.Text()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := vault.OpenStore("dir://"+filepath.Join(s.dir, "vault"), true)
	if err != nil {
		t.Fatal(err)
	}
	s.st = &counted{Store: st}
	key, err := vault.KeyFromFile(filepath.Join(s.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	if s.v, err = vault.Create(ctx, s.st, key); err != nil {
		t.Fatal(err)
	}
	if s.w, err = s.v.OpenDisk(ctx, testDisk); err != nil {
		t.Fatal(err)
	}
	return s
}

// identity is what an agent would say of the image at home.
func (s *site) identity(t testing.TB) string {
	t.Helper()
	d, err := disk.Open(s.home)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return d.Identity()
}

// cut commits blocks of the newest image and makes a point of it. identity, if not "-",
// opens an epoch.
func (s *site) cut(t testing.TB, identity string, blocks ...int) *vault.PointDisk {
	t.Helper()
	h := s.w.Head()
	b := &vault.Batch{Epoch: h.Epoch, First: h.Number + 1, Last: h.Number + 2, Prev: h.Hash}
	if identity != "-" {
		b.Epoch, b.First, b.Last, b.Prev = h.Epoch+1, 1, 2, [32]byte{}
		b.Open = &vault.Open{Size: uint64(len(s.image)), Capture: "scan", Host: "h", Instance: "i", Identity: identity, Reason: "test", Time: time.Now()}
	}
	b.Hash = sha256.Sum256(fmt.Appendf(nil, "%d %d", b.Epoch, b.Last))
	b.Cut = &vault.Cut{Point: fmt.Sprintf("p%d-%d", b.Epoch, b.Last), Group: "web1", Time: time.Now(), Consistency: "crash", Size: uint64(len(s.image))}
	for i := 0; i < len(blocks); {
		n := 1
		for i+n < len(blocks) && blocks[i+n] == blocks[i]+n && n < 64 {
			n++
		}
		b.Frames = append(b.Frames, s.frame(blocks[i], n))
		i += n
	}
	head, err := s.w.Commit(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	p := &vault.PointDisk{Disk: testDisk.Disk, At: head.Position, Size: uint64(len(s.image)), Digest: head.Digest}
	s.points = append(s.points, p)
	s.images[p.At] = bytes.Clone(s.image)
	return p
}

func (s *site) frame(start, n int) vault.Frame {
	data := make([]byte, n*block)
	copy(data, s.image[start*block:])
	f := vault.Frame{}
	for i := range n {
		sum := vault.SumOf(data[i*block:][:block])
		e := vault.Extent{Start: uint64(start + i), Count: 1}
		if sum == (vault.Sum{}) {
			e.Zero = true
		} else {
			e.Off = uint32(len(f.Sums))
			f.Sums = append(f.Sums, sum)
			f.Data = append(f.Data, data[i*block:][:block]...)
		}
		f.Extents = append(f.Extents, e)
	}
	f.Raw = uint32(len(f.Data))
	return f
}

// scribble changes blocks of the newest image and returns which, ascending.
func (s *site) scribble(r *mrand.Rand, share float64) (blocks []int) {
	for i := range (len(s.image) + block - 1) / block {
		if r.Float64() >= share {
			continue
		}
		blocks = append(blocks, i)
		b := s.image[i*block : min((i+1)*block, len(s.image))]
		if r.IntN(3) == 0 {
			clear(b)
			continue
		}
		for j := range b {
			b[j] = byte(r.Uint32())
		}
	}
	return blocks
}

func (s *site) open(t testing.TB, change ...func(*Config)) *Master {
	t.Helper()
	m, err := s.try(change...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func (s *site) try(change ...func(*Config)) (*Master, error) {
	c := Config{Vault: s.v, Disk: testDisk, Path: s.home, StateDir: s.state, Size: uint64(len(s.image))}
	for _, f := range change {
		f(&c)
	}
	return Open(context.Background(), c)
}

// same compares the disk at home with a point.
func (s *site) same(t testing.TB, p *vault.PointDisk) {
	t.Helper()
	b, err := os.ReadFile(s.home)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(b) != sha256.Sum256(s.images[p.At]) {
		t.Fatal("the disk at home is not as it is at the point")
	}
}
