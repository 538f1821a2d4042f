package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/leeward-dr/leeward/bench/corpus"
	"github.com/leeward-dr/leeward/bench/limits"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/api"
)

// leeward takes Leeward through all steps.
func (c *contest) leeward(ctx context.Context, run int) (err error) {
	r, err := rig.New(c.work, c.log())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	o, err := newOurs(ctx, r, c.bin, r.Dir)
	if err != nil {
		return c.fail(leeward, stepInitial, run, err)
	}
	if err := o.attach(ctx, c.corpus.Base); err != nil {
		return c.fail(leeward, stepInitial, run, err)
	}
	capture := "scan"
	if rig.Root() {
		capture = "auto"
	}
	if err := c.drop(); err != nil {
		return err
	}
	busy := rig.Busy()
	u, stored, _, err := o.initial(ctx, capture)
	if err != nil {
		return c.fail(leeward, stepInitial, run, err)
	}
	c.take(leeward, stepInitial, run, u, stored, rig.Busy()-busy, fmt.Sprintf("%s; peak of the appliance, the agent's is %d MiB", o.share, o.agent.RSS()>>20))
	var p api.Point
	for _, d := range c.corpus.Days {
		if p, err = c.tracked(ctx, o, run, d); err != nil {
			return err
		}
	}
	if err := c.rescanned(ctx, o, run); err != nil {
		return err
	}
	if err := o.stop(); err != nil {
		return err
	}
	return c.comeBack(ctx, o, run, p)
}

// tracked measures a day's delta with live tracking. The point it returns holds that day.
func (c *contest) tracked(ctx context.Context, o *ours, run int, d corpus.Day) (api.Point, error) {
	step := stepDelta(d.Percent)
	if !rig.Root() {
		_ = c.fail(leeward, step, run, errors.New("live tracking needs root and a block device"))
		step = stepScan
	}
	busy := rig.Busy()
	u, stored, p, writing, err := o.delta(ctx, d.Path, d.ChangedAt)
	if err != nil {
		return p, c.fail(leeward, step, run, err)
	}
	note := fmt.Sprintf("after %.2f s of writing; a point every %v", writing.Seconds(), agentInterval)
	c.take(leeward, step, run, u, stored, rig.Busy()-busy, note)
	return p, nil
}

// rescanned measures the delta when nobody looked while the disk changed: what changed
// on day two is as on day one again, and a new agent comes.
func (c *contest) rescanned(ctx context.Context, o *ours, run int) error {
	if !rig.Root() {
		return nil // tracked has done that
	}
	if err := o.agent.Stop(patience); err != nil {
		return c.fail(leeward, stepScan, run, err)
	}
	if err := apply(c.corpus.Base, o.disk, c.corpus.Days[0].ChangedAt); err != nil {
		return c.fail(leeward, stepScan, run, err)
	}
	if err := c.drop(); err != nil {
		return err
	}
	busy := rig.Busy()
	u, stored, err := o.rescan(ctx)
	if err != nil {
		return c.fail(leeward, stepScan, run, err)
	}
	c.take(leeward, stepScan, run, u, stored, rig.Busy()-busy, "a new agent reads the whole disk")
	return nil
}

// comeBack measures restore and first read with the appliance gone.
func (c *contest) comeBack(ctx context.Context, o *ours, run int, p api.Point) error {
	if err := c.drop(); err != nil {
		return err
	}
	busy := rig.Busy()
	u, out, err := o.restore(ctx, p.ID)
	others := rig.Busy() - busy
	if err == nil {
		err = same(ctx, out, c.corpus.Last().SHA256)
	}
	if err != nil {
		return c.fail(leeward, stepRestore, run, err)
	}
	c.take(leeward, stepRestore, run, u, 0, others, "")
	off, err := c.offset(run)
	if err != nil {
		return err
	}
	if err := c.drop(); err != nil {
		return err
	}
	b, parts, took, err := o.first(ctx, p.ID, off)
	if err == nil {
		err = sameBlock(b, c.corpus.Last().Path, off)
	}
	if err != nil {
		return c.fail(leeward, stepFirst, run, err)
	}
	c.take(leeward, stepFirst, run, rig.Usage{Wall: took}, 0, 0, parts)
	return nil
}

// pipe copies an incompressible disk, and then sends as many messages of the same
// size through JetStream alone.
func (c *contest) pipe(ctx context.Context, run int) (err error) {
	r, err := rig.New(c.work, c.log())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	image := filepath.Join(r.Dir, "noise.img")
	if err := noise(image, c.noise); err != nil {
		return err
	}
	o, err := newOurs(ctx, r, c.bin, r.Dir)
	if err != nil {
		return err
	}
	t, err := o.tap()
	if err != nil {
		return err
	}
	capture, err := o.follow(ctx, image)
	if err != nil {
		return err
	}
	busy := rig.Busy()
	u, stored, _, err := o.initial(ctx, capture)
	if err != nil {
		return err
	}
	others := rig.Busy() - busy
	size, err := t.mean()
	if err != nil {
		return err
	}
	if err := o.stop(); err != nil {
		return err
	}
	c.take(leeward, stepPipe, run, u, stored, others, fmt.Sprintf("%d MiB incompressible, messages of %d bytes; %s", c.noise>>20, size, o.share))
	if err := c.drop(); err != nil {
		return err
	}
	l := limits.Stream(ctx, r.Dir, size, c.noise)
	c.limits = append(c.limits, l)
	if l.Why != "" {
		return c.fail(limits.JetStream, stepPipe, run, errors.New(l.Why))
	}
	c.res.Samples = append(c.res.Samples, rateSample(l, c.noise, run))
	return nil
}

// noise writes an incompressible image.
func noise(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	rnd, b := rand.NewChaCha8([32]byte{7}), make([]byte, rig.Chunk)
	for n := int64(0); n < size; n += rig.Chunk {
		rnd.Read(b)
		if _, err := f.Write(b); err != nil {
			f.Close()
			return err
		}
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
