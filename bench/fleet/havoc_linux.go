package fleet

import (
	"context"
	"errors"
	"fmt"
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

// havoc writes on all disks and breaks one thing after the other.
func (t *trial) havoc(ctx context.Context) (err error) {
	writing, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 2*len(t.machines))
	for i, m := range t.machines {
		churn := &load.Churn{Dir: m.dir, Room: t.o.Size / 4, Seed: t.o.Seed + uint64(i), Pause: 100 * time.Millisecond}
		go func() { ended <- m.ledger.Run(writing) }()
		go func() { ended <- churn.Run(writing) }()
	}
	for i := 0; i < t.o.Rounds && err == nil; i++ {
		err = t.round(ctx, i)
	}
	stop()
	for range 2 * len(t.machines) {
		err = errors.Join(err, <-ended)
	}
	return err
}

// round breaks one thing, waits until it is whole again, and for the points.
func (t *trial) round(ctx context.Context, i int) error {
	if err := pause(ctx, time.Duration(t.rnd.Int64N(int64(2*time.Second)))); err != nil {
		return err
	}
	r := Round{}
	what, do := t.fault(i)
	for try := 0; !strings.HasPrefix(what, t.o.Only); try++ {
		if try == 10000 {
			return fmt.Errorf("no fault begins with %q", t.o.Only)
		}
		what, do = t.fault(i)
	}
	r.What = what
	err := do(ctx)
	if err != nil {
		return fmt.Errorf("round %d: %s: %w", i+1, r.What, err)
	}
	whole := time.Now()
	// Ten times the promise to see how long it takes when it is broken.
	if _, r.Slowest, err = t.await(ctx, whole, max(10*t.o.Recovery, 5*time.Minute)); err != nil {
		t.bad("round %d: %s: %v", i+1, r.What, err)
		return fmt.Errorf("round %d: %s: %w", i+1, r.What, err)
	}
	r.Recovery = time.Since(whole)
	if r.Recovery > t.o.Recovery {
		t.bad("round %d: %s: the last new point came %v later, %v are allowed (%s)", i+1, r.What, r.Recovery.Round(time.Millisecond), t.o.Recovery, r.Slowest)
	}
	t.res.Rounds = append(t.res.Rounds, r)
	t.o.Say("round %d of %d: %s, all machines have new points %v later (%s)", i+1, t.o.Rounds, r.What, r.Recovery.Round(time.Millisecond), r.Slowest)
	return t.note(ctx)
}

// fault chooses what is broken in a round.
func (t *trial) fault(i int) (what string, do func(context.Context) error) {
	victim := t.all()[t.rnd.IntN(len(t.parts)+len(t.machines))]
	switch {
	case t.o.Power:
		return t.powerFault(i)
	case t.o.Each:
		return t.eachFault(i)
	case t.o.Rolling > 0 && i%t.o.Rolling == t.o.Rolling-1:
		return "rolling restart", t.rolling
	case t.rnd.IntN(2) == 0:
		return "kill " + victim.name, func(context.Context) error { return victim.Kill() }
	case t.rnd.IntN(8) == 0:
		return t.leaderFault()
	}
	return t.cableFault(victim)
}

// Kinds is how many kinds of faults there are with Each.
const Kinds = 6

// eachFault breaks one thing of each kind, one after the other.
func (t *trial) eachFault(i int) (what string, do func(context.Context) error) {
	kind := i % Kinds
	if kind == 1 {
		return t.leaderFault()
	}
	var some []*part
	for _, p := range t.all() {
		if p.name[0] == "n?pcwp"[kind] {
			some = append(some, p)
		}
	}
	victim := some[t.rnd.IntN(len(some))]
	if kind == 5 {
		return t.cableFault(victim)
	}
	return "kill " + victim.name, func(context.Context) error { return victim.Kill() }
}

// cableFault pulls a cable for a while.
func (t *trial) cableFault(victim *part) (what string, do func(context.Context) error) {
	return fmt.Sprintf("pull the cable of %s for %v", victim.name, t.o.Cut), func(ctx context.Context) error {
		if err := t.net.cable(ctx, victim.host, false); err != nil {
			return err
		}
		return errors.Join(pause(ctx, t.o.Cut), t.net.cable(ctx, victim.host, true))
	}
}

// leaderFault pulls the cable of the node that leads CHANGES.
func (t *trial) leaderFault() (what string, do func(context.Context) error) {
	return fmt.Sprintf("pull the cable of the leader for %v", t.o.Cut), func(ctx context.Context) error {
		n, err := t.leader(ctx)
		if err != nil {
			return err
		}
		t.o.Say("%s leads", t.parts[n].name)
		_, do := t.cableFault(t.parts[n])
		return do(ctx)
	}
}

// rolling restarts every part, one after the other, as an upgrade does.
func (t *trial) rolling(ctx context.Context) error {
	for _, p := range t.all() {
		if err := p.Restart(time.Minute); err != nil {
			return err
		}
		if p.name[0] != 'n' {
			continue
		}
		// The next node only when this one serves again.
		if err := t.current(ctx); err != nil {
			return fmt.Errorf("after the restart of %s: %w", p.name, err)
		}
	}
	return nil
}

// current waits until CHANGES has all its copies.
func (t *trial) current(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("not every copy of CHANGES came back"))
	defer cancel()
	return rig.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		s, err := t.site.Bus.JS.Stream(short, "CHANGES")
		if err != nil || s.CachedInfo().Cluster == nil {
			return false, nil
		}
		c := s.CachedInfo().Cluster
		behind := 0
		for _, r := range c.Replicas {
			if !r.Current || r.Offline {
				behind++
			}
		}
		return c.Leader != "" && len(c.Replicas) == 2 && behind == 0, nil
	})
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// note remembers what is listed now.
func (t *trial) note(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return rig.Poll(ctx, 500*time.Millisecond, func() (bool, error) {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		all, err := t.site.API.Points(short, api.Query{})
		for _, p := range all {
			t.seen[p.ID] = true
		}
		return err == nil, nil
	})
}

// look takes last points, stops everything and examines the vault with nothing but
// its key.
func (t *trial) look(ctx context.Context) error {
	want, last, err := t.quiet(ctx)
	if err != nil {
		return err
	}
	events, err := t.events(ctx, "resync")
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	for _, e := range events {
		if e.Time.Before(t.began()) {
			continue
		}
		t.res.Resyncs = append(t.res.Resyncs, e.What)
		if !strings.Contains(e.What, "(restart)") { // of an agent that was ended by us
			t.bad("a full resync: %s", e.What)
		}
	}
	for _, p := range slices.Backward(t.all()) {
		if err := p.Stop(); err != nil {
			t.bad("%v", err)
		}
		for _, e := range p.Ends() {
			t.res.Ends = append(t.res.Ends, e.Text)
		}
	}
	out, err := rig.Run(ctx, t.o.Bin.Leeward, "vault", "check", "--read-data", "--vault", "dir://"+product.Vault(t.conf), "--key-file", product.Key(t.conf))
	if err != nil {
		t.bad("vault check: %v", err)
		t.res.Problems = strings.Split(out, "\n")
	}
	v, err := product.OpenVault(ctx, t.conf)
	if err != nil {
		return err
	}
	for _, m := range t.machines {
		t.res.Records += m.ledger.Len()
		points, damaged, err := v.Points(ctx, m.name)
		if err != nil {
			return err
		}
		for _, err := range damaged {
			t.bad("a listed point is damaged: %v", err)
		}
		t.res.Listed += len(points)
		for i, p := range points {
			delete(t.seen, p.ID)
			if p.ID != last[m.name] && i%t.o.Every != 0 && (!t.around[p.ID] || len(points) > 10 && i%4 != 0) {
				continue
			}
			if err := t.examine(ctx, v, m, p, p.ID == last[m.name], want[m.name]); err != nil {
				return err
			}
		}
	}
	for id := range t.seen {
		t.bad("point %s was listed and is gone", id)
	}
	return nil
}

// events lists the events of one kind; control may just have changed.
func (t *trial) events(ctx context.Context, kind string) (all []api.Event, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last error
	err = rig.Poll(ctx, 500*time.Millisecond, func() (bool, error) {
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		all, last = t.site.API.Events(short, api.Query{Kind: kind})
		return last == nil, nil
	})
	return all, errors.Join(err, last)
}

// began is when the first record was written; what agents did before was the first
// copy.
func (t *trial) began() time.Time { return t.machines[0].ledger.First() }

// quiet ends all writing, takes last points and reads the disks.
func (t *trial) quiet(ctx context.Context) (want map[string]*rig.Image, last map[string]string, err error) {
	want, last = map[string]*rig.Image{}, map[string]string{}
	for _, m := range t.machines {
		if err := rig.ReadOnly(ctx, m.dir); err != nil {
			return nil, nil, err
		}
		if want[m.name], err = rig.DeviceImage(ctx, m.dev); err != nil {
			return nil, nil, err
		}
	}
	points, _, err := t.await(ctx, time.Now(), 5*time.Minute)
	if err != nil {
		return nil, nil, fmt.Errorf("the last points: %w", err)
	}
	for name, p := range points {
		last[name] = p.ID
	}
	return want, last, t.note(ctx)
}

// examine restores one point, mounts it and counts the records.
func (t *trial) examine(ctx context.Context, v *vault.Vault, m *machine, p *vault.Point, quiet bool, want *rig.Image) (err error) {
	r, err := rig.New(t.rig.Dir, t.o.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	file := filepath.Join(r.Dir, "restored.img")
	if err := product.Restore(ctx, v, vault.DiskID{Machine: m.name, Disk: diskID}, p.Machines[0].Disks[0], file); err != nil {
		t.bad("point %s of %s cannot be restored: %v", p.ID, m.name, err)
		return context.Cause(ctx)
	}
	if quiet {
		got, err := rig.FileImage(ctx, file)
		if err != nil {
			return err
		}
		if got.SHA256 != want.SHA256 {
			_, n := got.Differ(want, 5)
			t.bad("the last point of %s differs from the quiet disk in %d blocks: something was missed in silence", m.name, n)
		}
	}
	dev, err := r.Loop(ctx, file)
	if err != nil {
		return err
	}
	dir, unmount, err := r.Mount(ctx, "mnt", "ext4", dev, "ro")
	if err != nil {
		t.bad("point %s of %s does not mount: %v", p.ID, m.name, err)
		return nil
	}
	t.res.Checked++
	must := m.ledger.Before(p.Time)
	got, err := load.Intact(dir, m.ledger.Seed)
	if err != nil {
		t.bad("point %s: %v", p.ID, err)
	}
	if got < must {
		t.bad("point %s of %s has %d records, %d were on the disk before its cut", p.ID, m.name, got, must)
	}
	return unmount()
}
