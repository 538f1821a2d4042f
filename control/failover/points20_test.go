package failover

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
	"github.com/leeward-dr/leeward/control/vaulttest"
)

// points cuts n points of one disk: the machine of each says another word.
func points(t *testing.T, v *vaulttest.Vault, n int) {
	t.Helper()
	id := vault.DiskID{Machine: "web", Disk: "sda"}
	w, err := v.OpenDisk(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(-time.Hour)
	for i := range n {
		image := targettest.Ticking(word(i))
		h := w.Head()
		b := &vault.Batch{Epoch: 1, First: h.Number + 1, Prev: h.Hash, Last: h.Number + 3, Hash: sha256.Sum256(fmt.Append(nil, i))}
		if i == 0 {
			b.Open = &vault.Open{Size: uint64(len(image)), Capture: "scan", Guarantee: "every change is found by comparing hashes",
				Host: "web", Instance: "test", Path: "/dev/sda", Reason: "first", Time: now}
		}
		at, point := now.Add(time.Duration(i)*time.Minute), fmt.Sprint("p", i)
		b.Cut = &vault.Cut{Point: point, Group: "web", Time: at, Consistency: "crash", Size: uint64(len(image))}
		data := image[:vault.BlockSize]
		b.Frames = []vault.Frame{{Raw: vault.BlockSize, Extents: []vault.Extent{{Count: 1}}, Sums: []vault.Sum{vault.SumOf(data)}, Data: data}}
		if h, err = w.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		err := v.PutPoint(t.Context(), &vault.Point{
			ID: point, Group: "web", Time: at, Consistency: "crash", Listed: at,
			Machines: []vault.PointMachine{{Machine: "web", Host: "web", CPUs: 1, Memory: 128 << 20, Firmware: "bios",
				Disks: []vault.PointDisk{{Disk: "sda", At: h.Position, Size: uint64(len(image)), Digest: h.Digest}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func word(i int) string { return fmt.Sprintf("w%03d", i) }

// Each of twenty points boots as the machine that it is of.
func TestTwentyPoints(t *testing.T) {
	targettest.Full(t, "twenty boots")
	targettest.Need(t, "qemu-system-x86_64")
	v := vaulttest.New(t)
	const n = 20
	points(t, v, n)
	e, err := New(Config{Dir: t.TempDir(), Vault: v.Vault, Target: Targets(nil, Azure{})})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop(t.Context())
	for i := range n {
		j, err := e.Test(Request{Machine: "web", Point: fmt.Sprint("p", i), Target: "qemu", Options: Options{Serial: word(i) + "=C", TimeoutSecs: 180}})
		if err != nil {
			t.Fatal(err)
		}
		j = settled(t, e, j.ID)
		if j.State != Alive || j.Result.VaultReadBytes == 0 {
			t.Fatalf("point %d: the job is %s: %s, %+v", i, j.State, j.Error, j.Result)
		}
		t.Logf("point %d: first line after %.2f s, %d bytes from the vault: %q", i, j.Result.FirstLineSeconds, j.Result.VaultReadBytes, j.Result.Evidence)
		if _, err := e.Cleanup(t.Context(), j.ID); err != nil {
			t.Fatal(err)
		}
	}
}

var _ target.Verifier = Disk{}

// A copy of a disk is right or not.
func TestVerify(t *testing.T) {
	v := vaulttest.New(t)
	p := v.Disk(t, "p1", "web", targettest.Ticking("tick"), time.Now())
	all, err := open(t.Context(), v.Vault, &p.Machines[0])
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	image := targettest.Ticking("tick")
	if err := all[0].Verify(t.Context(), targettest.Mem("sda", image)); err != nil {
		t.Error(err)
	}
	image[300]++
	if err := all[0].Verify(t.Context(), targettest.Mem("sda", image)); err == nil {
		t.Error("a copy with another byte is right")
	}
}
