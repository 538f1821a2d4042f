package vaulttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
)

// Size is the size of every disk in bytes.
const Size = 256 << 10

// Vault is a vault with what is needed to open it again.
type Vault struct {
	*vault.Vault
	URL     string
	KeyFile string
	disks   map[vault.DiskID]*disk
}

type disk struct {
	w     *vault.DiskWriter
	image []byte
}

// New makes an empty vault in a directory below the test's.
func New(t testing.TB) *Vault { return In(t, filepath.Join(t.TempDir(), "vault")) }

// In makes an empty vault in dir, its key beside it in dir + ".key".
func In(t testing.TB, dir string) *Vault {
	t.Helper()
	v := &Vault{URL: "dir://" + dir, KeyFile: dir + ".key", disks: map[vault.DiskID]*disk{}}
	if err := os.WriteFile(v.KeyFile, []byte(vault.NewKeyText()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := vault.KeyFromFile(v.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	st, err := vault.OpenStore(v.URL, true)
	if err != nil {
		t.Fatal(err)
	}
	if v.Vault, err = vault.Create(t.Context(), st, key); err != nil {
		t.Fatal(err)
	}
	return v
}

// Write changes blocks of a disk and cuts it, for a point of that id; what is at
// block n is filled with byte blocks[n]. A new epoch is opened if open is set or
// the disk is new. It returns where the cut is.
func (v *Vault) Write(t testing.TB, id vault.DiskID, point, group string, open bool, blocks map[int]byte) vault.Position {
	t.Helper()
	ctx := context.Background()
	d := v.disks[id]
	if d == nil {
		w, err := v.OpenDisk(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		d = &disk{w: w, image: make([]byte, Size)}
		v.disks[id] = d
	}
	h := d.w.Head()
	b := &vault.Batch{Epoch: h.Epoch, First: h.Number + 1, Prev: h.Hash}
	if open || h.Epoch == 0 {
		b.Epoch, b.First, b.Prev = h.Epoch+1, 1, [32]byte{}
		b.Open = &vault.Open{Size: Size, Capture: "scan", Guarantee: "every change is found by comparing hashes", Host: id.Machine + ".example",
			Instance: "test", Path: "/dev/" + id.Disk, Reason: "first", Time: time.Now()}
	}
	b.Last = b.First + uint64(len(blocks)) + 1
	b.Hash = sha256.Sum256(fmt.Appendf(nil, "%v %d %d", id, b.Epoch, b.Last))
	b.Cut = &vault.Cut{Point: point, Group: group, Time: time.Now(), Consistency: "crash", Size: Size}
	for n, fill := range blocks {
		data := bytes.Repeat([]byte{fill}, vault.BlockSize)
		copy(d.image[n*vault.BlockSize:], data)
		b.Frames = append(b.Frames, vault.Frame{
			Raw: vault.BlockSize, Extents: []vault.Extent{{Start: uint64(n), Count: 1}}, Sums: []vault.Sum{vault.SumOf(data)}, Data: data,
		})
	}
	h, err := d.w.Commit(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	return h.Position
}

// Head returns where a disk stands.
func (v *Vault) Head(id vault.DiskID) vault.Head { return v.disks[id].w.Head() }

// Image returns what a disk holds now.
func (v *Vault) Image(id vault.DiskID) []byte { return bytes.Clone(v.disks[id].image) }

// Point writes one block of disk sda of a machine, with a content of its own, cuts
// it and lists the point.
func (v *Vault) Point(t testing.TB, id, machine, consistency string, at time.Time) *vault.Point {
	t.Helper()
	disk := vault.DiskID{Machine: machine, Disk: "sda"}
	pos := v.Write(t, disk, id, machine, false, map[int]byte{3: byte(at.UnixNano()%251) + 1, 7: id[len(id)-1]})
	p := &vault.Point{
		ID: id, Group: machine, Time: at, Consistency: consistency, Frozen: 12 * time.Millisecond, Listed: at.Add(time.Second),
		Machines: []vault.PointMachine{{
			Machine: machine, Host: machine + ".example", CPUs: 1, Memory: 64 << 20, Firmware: "bios", OS: "Debian 12", Kernel: "6.1", NICs: []string{"eth0 52:54:00:00:00:01"},
			Disks: []vault.PointDisk{{Disk: "sda", At: pos, Size: Size, Digest: v.Head(disk).Digest, Frozen: true}},
		}},
	}
	if err := v.PutPoint(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// Disk writes a whole disk sda of a new machine, cuts it and lists the point.
func (v *Vault) Disk(t testing.TB, id, machine string, image []byte, at time.Time) *vault.Point {
	t.Helper()
	ctx := context.Background()
	disk := vault.DiskID{Machine: machine, Disk: "sda"}
	w, err := v.OpenDisk(ctx, disk)
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(len(image))
	b := &vault.Batch{Epoch: 1, First: 1, Hash: sha256.Sum256(image),
		Open: &vault.Open{Size: size, Capture: "scan", Guarantee: "every change is found by comparing hashes", Host: machine + ".example",
			Instance: "test", Path: "/dev/sda", Reason: "first", Time: at},
		Cut: &vault.Cut{Point: id, Group: machine, Time: at, Consistency: "crash", Size: size}}
	for n := 0; n < len(image); n += vault.BlockSize {
		data := image[n:min(n+vault.BlockSize, len(image))]
		if sum := vault.SumOf(data); sum != (vault.Sum{}) {
			b.Frames = append(b.Frames, vault.Frame{
				Raw: vault.BlockSize, Extents: []vault.Extent{{Start: uint64(n / vault.BlockSize), Count: 1}}, Sums: []vault.Sum{sum}, Data: bytes.Clone(data),
			})
		}
	}
	b.Last = b.First + uint64(len(b.Frames)) + 1
	head, err := w.Commit(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	p := &vault.Point{
		ID: id, Group: machine, Time: at, Consistency: "crash", Listed: at,
		Machines: []vault.PointMachine{{
			Machine: machine, Host: machine + ".example", CPUs: 1, Memory: 128 << 20, Firmware: "bios",
			Disks: []vault.PointDisk{{Disk: "sda", At: head.Position, Size: size, Digest: head.Digest}},
		}},
	}
	if err := v.PutPoint(ctx, p); err != nil {
		t.Fatal(err)
	}
	return p
}
