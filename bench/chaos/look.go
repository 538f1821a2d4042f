package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/load"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
)

// excused are the agent's exit codes for what a kill brings about and a service
// manager's next start cures: the disk is held, the server is away.
var excused = []int{5, 6}

// look takes the last point, stops everything, and examines the vault.
func (t *trial) look(ctx context.Context) error {
	t.res.Records, t.res.Stall = t.ledger.Len(), t.ledger.Slowest()
	want, last, err := t.quiet(ctx)
	if err != nil {
		return err
	}
	if err := t.events(ctx); err != nil {
		return err
	}
	if err := t.agent.Stop(); err != nil {
		t.bad("%v", err)
	}
	if err := t.appliance.Stop(); err != nil {
		t.bad("%v", err)
	}
	for _, e := range append(t.agent.Ends(), t.appliance.Ends()...) {
		t.res.Ends = append(t.res.Ends, e.Text)
		if !slices.Contains(excused, e.Code) {
			t.bad("a program ended although nobody had asked for it: %s", e.Text)
		}
	}
	if t.o.Sabotage {
		if err := spoil(product.Vault(t.site.Dir)); err != nil {
			return fmt.Errorf("sabotage: %w", err)
		}
	}
	t.check(ctx)
	v, err := product.OpenVault(ctx, t.site.Dir)
	if err != nil {
		return fmt.Errorf("open the vault with everything else gone: %w", err)
	}
	points, damaged, err := v.Points(ctx, machine)
	if err != nil {
		return err
	}
	for _, err := range damaged {
		t.bad("a listed point is damaged: %v", err)
	}
	t.res.Listed = len(points)
	for _, p := range points {
		delete(t.seen, p.ID)
	}
	for id := range t.seen {
		t.bad("point %s was listed and is gone", id)
	}
	var chosen []*vault.Point
	for i, p := range points {
		if p.ID == last || t.around[p.ID] || i%t.o.Every == 0 {
			chosen = append(chosen, p)
		}
	}
	for i, p := range chosen {
		if i%20 == 0 {
			t.o.Say("restore, mount and count %d of %d points: %d done", len(chosen), len(points), i)
		}
		if err := t.examine(ctx, v, p, last, want); err != nil {
			return err
		}
	}
	return nil
}

// quiet ends all writing for good, takes a last point and reads the disk. Reading it
// before and after the point shows that it really was quiet.
func (t *trial) quiet(ctx context.Context) (want *rig.Image, point string, err error) {
	if err := rig.ReadOnly(ctx, t.dir); err != nil {
		return nil, "", err
	}
	before, err := rig.DeviceImage(ctx, t.dev)
	if err != nil {
		return nil, "", err
	}
	p, err := t.await(ctx, time.Now())
	if err != nil {
		return nil, "", fmt.Errorf("the last point: %w; the agent's last words: %s", err, t.agent.Words())
	}
	after, err := rig.DeviceImage(ctx, t.dev)
	if err != nil {
		return nil, "", err
	}
	if after.SHA256 != before.SHA256 {
		return nil, "", errors.New("the disk changed although nobody writes: the last point proves nothing")
	}
	return before, p.ID, t.note(ctx, p)
}

// events counts what an operator is told of resyncs.
func (t *trial) events(ctx context.Context) error {
	all, err := t.site.API.Events(ctx, api.Query{Kind: "resync"})
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	t.res.Resyncs = len(all)
	return nil
}

// check runs the operator's command over the whole vault.
func (t *trial) check(ctx context.Context) {
	t.o.Say("leeward vault check --read-data")
	out, err := rig.Run(ctx, t.o.Bin.Leeward, "vault", "check", "--read-data", "--dir", t.site.Dir)
	if err == nil {
		return
	}
	t.bad("vault check: %v", err)
	for line := range strings.Lines(out) {
		if len(t.res.Problems) < 20 {
			t.res.Problems = append(t.res.Problems, strings.TrimSpace(line))
		}
	}
}

// examine restores one point, mounts it and counts the records.
func (t *trial) examine(ctx context.Context, v *vault.Vault, p *vault.Point, last string, want *rig.Image) (err error) {
	r, err := rig.New(t.rig.Dir, t.o.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if len(p.Machines) != 1 || len(p.Machines[0].Disks) != 1 {
		t.bad("point %s does not have one disk of one machine", p.ID)
		return nil
	}
	file := filepath.Join(r.Dir, "restored.img")
	if err := product.Restore(ctx, v, vault.DiskID{Machine: machine, Disk: diskID}, p.Machines[0].Disks[0], file); err != nil {
		t.bad("point %s cannot be restored: %v", p.ID, err)
		return context.Cause(ctx)
	}
	if p.ID == last {
		got, err := rig.FileImage(ctx, file)
		if err != nil {
			return err
		}
		if got.SHA256 != want.SHA256 {
			blocks, n := got.Differ(want, 5)
			t.bad("the last point %s differs from the quiet disk in %d blocks, the first are %v: something was missed in silence", p.ID, n, blocks)
		}
	}
	dev, err := r.Loop(ctx, file)
	if err != nil {
		return err
	}
	dir, unmount, err := r.Mount(ctx, "mnt", "ext4", dev, "ro")
	if err != nil {
		t.bad("point %s does not mount: %v", p.ID, err)
		return nil
	}
	t.res.Checked++
	must := t.ledger.Before(p.Time)
	got, err := load.Intact(dir, t.o.Seed)
	if err != nil {
		t.bad("point %s: %v", p.ID, err)
	}
	if got < must {
		t.bad("point %s has %d records, %d were on the disk before its cut", p.ID, got, must)
	}
	return unmount()
}

// spoil flips a byte in the middle of the largest object of a vault.
func spoil(dir string) error {
	var path string
	var size int64
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		i, err := d.Info()
		if err == nil && i.Size() > size {
			path, size = p, i.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		if err = os.Chmod(path, 0o600); err == nil {
			f, err = os.OpenFile(path, os.O_RDWR, 0)
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], size/2); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], size/2)
	return err
}
