package standby

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
	"github.com/leeward-dr/leeward/control/vaulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDue(t *testing.T) {
	const owner = "v"
	now := time.Now()
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	point := func(id string, minutes int, disks ...string) *vault.Point {
		p := &vault.Point{ID: id, Time: at(minutes), Machines: []vault.PointMachine{{Machine: "web"}}}
		for _, d := range disks {
			p.Machines[0].Disks = append(p.Machines[0].Disks, vault.PointDisk{Disk: d, Size: 1 << 20})
		}
		return p
	}
	kept := func(disk string, minutes int, change func(*azure.KeptDisk)) azure.KeptDisk {
		k := azure.KeptDisk{Key: azure.Key{Owner: owner, Machine: "web", Disk: disk}, Size: 1 << 20, Point: "p", Time: at(minutes), Sure: true}
		if change != nil {
			change(&k)
		}
		return k
	}
	hour := map[string]time.Duration{"web": time.Hour}
	all := []*vault.Point{point("p1", -90, "sda"), point("p2", 0, "sda", "sdb")}
	for about, c := range map[string]struct {
		want map[string]time.Duration
		all  []*vault.Point
		have []azure.KeptDisk
		due  []string
	}{
		"new":                      {hour, all, nil, []string{"sda to p2", "sdb to p2"}},
		"near enough":              {hour, all, []azure.KeptDisk{kept("sda", -59, nil), kept("sdb", 0, nil)}, nil},
		"behind, the oldest first": {hour, all, []azure.KeptDisk{kept("sda", -60, nil), kept("sdb", -70, nil)}, []string{"sdb to p2", "sda to p2"}},
		"broken off":               {hour, all, []azure.KeptDisk{kept("sda", 0, func(k *azure.KeptDisk) { k.Sure = false }), kept("sdb", 0, nil)}, []string{"sda to p2"}},
		"grown":                    {hour, all, []azure.KeptDisk{kept("sda", 0, func(k *azure.KeptDisk) { k.Size = 512 }), kept("sdb", 0, nil)}, []string{"sda to p2"}},
		"a disk less":              {hour, all[:1], []azure.KeptDisk{kept("sda", -90, nil), kept("sdb", -90, nil)}, []string{"drop sdb"}},
		"not wanted":               {nil, all, []azure.KeptDisk{kept("sda", 0, nil)}, []string{"drop sda"}},
		"no points":                {hour, nil, []azure.KeptDisk{kept("sda", -900, nil)}, nil},
	} {
		var got []string
		for _, d := range Due(owner, c.want, c.all, c.have) {
			if d.Drop {
				got = append(got, "drop "+d.Key.Disk)
			} else {
				got = append(got, d.Key.Disk+" to "+d.Point.ID)
			}
		}
		if !slices.Equal(got, c.due) {
			t.Errorf("%s: %q, want %q", about, got, c.due)
		}
	}
}

// rig is a vault, a cloud, and what an operator wants.
type rig struct {
	*testing.T
	v     *vaulttest.Vault
	cloud *armtest.Cloud
	want  map[string]time.Duration
	broke []string // what was told
}

func (r *rig) keeper() *Keeper {
	return New(Config{
		Vault: r.v.Vault, Every: every, Log: slog.New(slog.NewTextHandler(r.Output(), nil)), Want: func() map[string]time.Duration { return r.want },
		Points:  func(ctx context.Context) ([]*vault.Point, error) { all, _, err := r.v.Points(ctx, ""); return all, err },
		Azure:   func() (azure.Config, error) { return r.azure(), nil },
		Trouble: func(machine string, err error) { r.broke = append(r.broke, fmt.Sprint(machine, ": ", err != nil)) },
	})
}

func (r *rig) azure() azure.Config {
	return azure.Config{Place: azure.Place{
		Subscription: armtest.Subscription, ResourceGroup: armtest.Group, Region: armtest.Region, Account: armtest.Account,
	}}.Tune(azure.Tuning{
		Transport: r.cloud, Credential: armtest.Credential(), Pause: time.Millisecond, PageBlob: r.cloud.PageBlob, Container: r.cloud.Container,
	})
}

// every is how often a keeper's Step is said to be called.
const every = time.Minute

var sda = vault.DiskID{Machine: "web", Disk: "sda"}

// holds fails the test unless the copy is what the disk is now.
func (r *rig) holds() {
	r.Helper()
	want := r.v.Image(sda)
	if got := r.cloud.InAccount(r.T, "standby/web/sda.vhd"); !bytes.Equal(got[:len(want)], want) {
		r.Error("the copy is not the disk")
	}
}

func (r *rig) state(k *Keeper) State {
	r.Helper()
	all := k.States()
	if len(all) != 1 {
		r.Fatalf("%+v", all)
	}
	return all[0]
}

// Copies follow the points of a real vault, by what differs; another control goes on with
// them, and they go when nobody wants them.
func TestKeeper(t *testing.T) {
	s := azuritetest.Start(t)
	r := &rig{T: t, v: vaulttest.New(t), cloud: armtest.New(t, s.Endpoint, azuritetest.Account, azuritetest.Key)}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	step := func(k *Keeper) {
		t.Helper()
		if err := k.Step(ctx); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now().Add(-time.Hour)
	blocks := map[int]byte{}
	for n := range 50 {
		blocks[n] = byte(n + 1)
	}
	r.v.Write(t, sda, "p0", "web", true, blocks)
	r.v.Point(t, "p1", "web", "crash", begin)
	k := r.keeper()
	step(k)
	if calls := r.cloud.Calls(); len(calls) > 0 || len(k.States()) > 0 {
		t.Errorf("nobody wants anything: %v", calls)
	}
	r.want = map[string]time.Duration{"web": 10 * time.Minute}
	step(k)
	r.holds()
	first := r.state(k)
	if first.Point != "p1" || first.Sent < 50*vault.BlockSize || first.Last != first.Sent || first.Brought.IsZero() || first.Size == 0 {
		t.Errorf("%+v", first)
	}
	if !strings.HasSuffix(first.Where, "/leeward-disks/standby/web/sda.vhd") || first.Limit != 10*time.Minute {
		t.Errorf("it is at %s, %v behind at most", first.Where, first.Limit)
	}
	// It is an hour old: the next look brings it on if there is a newer point.
	if wait := time.Until(first.Next); wait > every {
		t.Errorf("it is brought on in %v", wait)
	}
	r.v.Point(t, "p2", "web", "crash", begin.Add(9*time.Minute))
	step(k)
	if got := r.state(k); got.Point != "p1" || got.Sent != first.Sent {
		t.Errorf("it is near enough: %+v", got)
	}
	for n := range 4 {
		r.v.Point(t, fmt.Sprint("p", 3+n), "web", "crash", begin.Add(time.Duration(10+11*n)*time.Minute))
		if n == 2 {
			k = r.keeper() // another control
			first.Sent = 0
		}
		step(k)
		r.holds()
		now := r.state(k)
		if sent := now.Sent - first.Sent; now.Point != fmt.Sprint("p", 3+n) || sent > 2*vault.BlockSize || sent == 0 {
			t.Errorf("%d bytes were sent for two blocks: %+v", sent, now)
		}
		first = now
	}
	if use := k.InUse(); !slices.Equal(use, []string{"p6"}) {
		t.Errorf("in use: %v", use)
	}

	// Points go, but for the one that the copy is at.
	r.v.Point(t, "p7", "web", "crash", begin.Add(50*time.Minute))
	m, err := r.v.Maintain(ctx, vault.MaintainOptions{Keep: vault.Retention{All: time.Second}, InUse: k.InUse})
	if err != nil || len(m.Removed) != 5 {
		t.Fatalf("%+v, %v", m, err)
	}
	r.v.Point(t, "p8", "web", "crash", begin.Add(57*time.Minute))
	step(k)
	r.holds()
	if now := r.state(k); now.Sent-first.Sent > 2*vault.BlockSize || now.Looked != 0 {
		t.Errorf("%d bytes were sent for two blocks, %d looked at: %+v", now.Sent-first.Sent, now.Looked, now)
	}

	r.cloud.Forbid(true)
	for range 2 {
		if err := k.Step(ctx); err == nil {
			t.Error("nothing is forbidden")
		}
	}
	if now := r.state(k); now.Error == "" || now.Point != "p8" {
		t.Errorf("nobody can ask Azure, and the copy does not say so: %+v", now)
	}
	// A control that was started meanwhile says it too, of a disk that it knows of the points alone.
	fresh := r.keeper()
	fresh.cfg.Trouble = nil
	if err := fresh.Step(ctx); err == nil {
		t.Error("nothing is forbidden")
	}
	if now := r.state(fresh); now.Error == "" || now.Point != "" || now.Limit != 10*time.Minute {
		t.Errorf("%+v", now)
	}
	r.cloud.Forbid(false)
	step(k)
	if now := r.state(k); now.Error != "" || now.Point != "p8" {
		t.Errorf("%+v", now)
	}
	if want := []string{"web: true", "web: false"}; !slices.Equal(r.broke, want) {
		t.Errorf("told: %q", r.broke)
	}
	r.want = nil // nobody knows
	step(k)
	r.holds()
	r.want = map[string]time.Duration{}
	step(k)
	step(k)
	if left := r.cloud.Left(t); len(left) > 0 || len(k.States()) > 0 {
		t.Errorf("left: %v", left)
	}
	kept, err := azure.OpenKept(ctx, r.azure(), azure.Key{Owner: r.v.ID(), Machine: "web", Disk: "sda"}, 0)
	if !errors.Is(err, azure.ErrNoKept) {
		t.Errorf("%+v, %v", kept, err)
	}
}
