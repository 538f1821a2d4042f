package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
)

// loadFences reads the fences that stand.
func (v *lives) loadFences(ctx context.Context) error {
	kv, err := v.s.bus.JS.KeyValue(ctx, streams.Fences)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", streams.Fences, err)
	}
	l, err := kv.ListKeys(ctx)
	if err != nil {
		return fmt.Errorf("list bucket %s: %w", streams.Fences, err)
	}
	for machine := range l.Keys() {
		e, err := kv.Get(ctx, machine)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		var f *streams.Fence
		if err == nil {
			f, err = streams.DecodeFence(machine, e.Value())
		}
		if err != nil {
			return fmt.Errorf("read bucket %s: %w", streams.Fences, err)
		}
		v.mu.Lock()
		v.fences[machine] = f
		v.mu.Unlock()
	}
	return nil
}

// fenceOf returns the fence of a machine, nil if there is none.
func (v *lives) fenceOf(machine string) *streams.Fence {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fences[machine]
}

// setFence puts a fence up or changes who may write behind it. Doing it again is
// harmless.
func (v *lives) setFence(ctx context.Context, f streams.Fence) error {
	kv, err := v.s.bus.JS.KeyValue(ctx, streams.Fences)
	if err == nil {
		var b []byte
		if b, err = f.Encode(); err == nil {
			_, err = kv.Put(ctx, f.Machine, b)
		}
	}
	if err != nil {
		return fmt.Errorf("fence machine %s: %w", f.Machine, err)
	}
	v.mu.Lock()
	v.fences[f.Machine] = &f
	delete(v.quiet, f.Machine) // what it said before is of another fence
	v.mu.Unlock()
	v.s.tell(f.Machine)
	v.s.memory.due()
	return nil
}

// dropFence takes a fence away. Doing it again is harmless.
func (v *lives) dropFence(ctx context.Context, machine string) error {
	kv, err := v.s.bus.JS.KeyValue(ctx, streams.Fences)
	if err == nil {
		err = kv.Delete(ctx, machine)
	}
	if err != nil {
		return fmt.Errorf("take the fence of machine %s away: %w", machine, err)
	}
	v.mu.Lock()
	delete(v.fences, machine)
	delete(v.quiet, machine)
	v.mu.Unlock()
	v.s.tell(machine)
	v.s.memory.due()
	return nil
}

// heardQuiet takes in what a fenced agent says.
func (v *lives) heardQuiet(q *markers.Quiet) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f := v.fences[q.Machine]; f == nil || f.Generation != q.Fence {
		return // of a fence that is gone
	}
	v.quiet[q.Machine] = q
	v.news()
}

const (
	quietTime = 10 * time.Minute // for an agent to finish a pass over its disks
	askQuiet  = 2 * time.Second
)

// untilQuiet waits until the fenced agent of a machine says that it publishes nothing any
// more, and returns how many bytes it had not sent.
func (v *lives) untilQuiet(ctx context.Context, machine string) (uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, quietTime, fmt.Errorf("the agent of machine %s has not said within %v that it has stopped: see that it runs", machine, quietTime))
	defer cancel()
	ask := time.NewTicker(askQuiet)
	defer ask.Stop()
	for {
		v.mu.Lock()
		q, changed := v.quiet[machine], v.changed
		v.mu.Unlock()
		if q != nil {
			if q.Error != "" {
				return 0, fmt.Errorf("the agent of machine %s cannot say what changed after the final point: %s", machine, q.Error)
			}
			return q.Bytes, nil
		}
		select {
		case <-changed:
		case <-ask.C:
			v.s.tell(machine) // a word may be lost, and an agent may have been started only now
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}
