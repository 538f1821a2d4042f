package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// loadFences takes in the fences that stand.
func (v *lives) loadFences(ctx context.Context) error {
	all, err := v.readFences(ctx)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fences = all
	return nil
}

// readFences reads the fences that stand, by machine.
func (v *lives) readFences(ctx context.Context) (map[string]*streams.Fence, error) {
	kv, err := v.s.bus.JS.KeyValue(ctx, streams.Fences)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", streams.Fences, err)
	}
	l, err := kv.ListKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", streams.Fences, err)
	}
	all := map[string]*streams.Fence{}
	for machine := range l.Keys() {
		e, err := kv.Get(ctx, machine)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err == nil {
			all[machine], err = streams.DecodeFence(machine, e.Value())
		}
		if err != nil {
			return nil, fmt.Errorf("read bucket %s: %w", streams.Fences, err)
		}
	}
	return all, nil
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

// Fences implements api.Lives.
func (s *Service) Fences(ctx context.Context, q api.Query) ([]api.Fence, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	all, err := s.lives.readFences(ctx) // not what is remembered: process servers go by the bucket
	if err != nil {
		return nil, err
	}
	out := []api.Fence{}
	for _, m := range slices.Sorted(maps.Keys(all)) {
		if q.Machine != "" && q.Machine != m {
			continue
		}
		phase, f := s.lives.get(m).Phase, all[m]
		out = append(out, api.Fence{
			Machine: m, Phase: phase, Generation: f.Generation, Since: f.Since, Why: f.Why, Holder: f.Holder,
			Needed: phase != life.Protected,
		})
	}
	return out, nil
}

// LiftFence implements api.Lives. A fence that a machine's phase needs goes with the
// phase; one may be left when control's and the bus's states come from different times.
func (s *Service) LiftFence(ctx context.Context, r api.FenceRequest) (*api.Fence, error) {
	all, err := s.Fences(ctx, api.Query{Machine: r.Machine})
	switch {
	case err != nil:
		return nil, err
	case r.Machine == "" || len(all) == 0:
		return nil, api.Errorf(api.CodeNotFound, "leeward fence ls", "machine %q has no fence", r.Machine)
	case all[0].Needed:
		return nil, api.Errorf(api.CodeRefused, "leeward failover show "+r.Machine, "machine %s is %s, which needs its fence: it goes with that", r.Machine, all[0].Phase)
	case r.Confirm != r.Machine:
		return nil, api.Errorf(api.CodeRefused, "repeat it with the name "+r.Machine+" as confirmation", "lifting the fence of %s is not confirmed", r.Machine)
	}
	a := s.lives.of(r.Machine)
	a.mu.Lock() // no step meanwhile
	defer a.mu.Unlock()
	if p := a.life.Load().Phase; p != life.Protected {
		return nil, api.Errorf(api.CodeRefused, "leeward failover show "+r.Machine, "machine %s is %s by now", r.Machine, p)
	}
	if err := s.lives.dropFence(ctx, r.Machine); err != nil {
		return nil, err
	}
	s.publish(ctx, "", &wire.Event{
		Time: time.Now().UnixNano(), Machine: r.Machine, Kind: kindLife, Severity: wire.Warning,
		What: clip("the fence of machine " + r.Machine + " was lifted by " + api.ActorOf(ctx).Name + ": its agent may write again"),
	})
	all[0].Schema = "leeward.fence.v1"
	return &all[0], nil
}
