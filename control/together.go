package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/book"
	"github.com/leeward-dr/leeward/control/life"
)

// joint is what the members of a joint failover have decided. It is kept before any of
// them acts on it, so that all do the same, whenever control dies.
type joint struct {
	Point  string            `json:"point,omitempty"`  // the final one
	Fenced bool              `json:"fenced,omitempty"` // all are, and lose what is in Losses
	Losses map[string]uint64 `json:"losses,omitempty"` // bytes, by machine
}

// meeting is where the members of a joint failover are in this process.
type meeting struct {
	quiesced map[string]bool
	fenced   map[string]uint64 // loss in bytes
}

const (
	// gatherTime is for how long members that were not asked yet are waited for.
	gatherTime = time.Minute
	// lookAround is how often a member looks at the others when nobody wakes it.
	lookAround = 200 * time.Millisecond
)

// meet says something of a member to the others.
func (v *lives) meet(id string, say func(*meeting)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.meetings[id]
	if m == nil {
		m = &meeting{map[string]bool{}, map[string]uint64{}}
		v.meetings[id] = m
	}
	say(m)
	v.news()
}

// decided reads what was decided; nothing yet is no error.
func (v *lives) decided(ctx context.Context, t *life.Together) (joint, error) {
	e, err := book.Get[joint](ctx, v.s.book, book.Joint, t.ID)
	if errors.Is(err, book.ErrNotFound) {
		return joint{}, nil
	}
	return e.Value, err
}

func (v *lives) decide(ctx context.Context, t *life.Together, j joint) error {
	_, err := v.s.book.Put(ctx, book.Joint, t.ID, j, "", book.Any)
	return err
}

// together waits until done says so, while all members can still come to the phase.
func (v *lives) together(ctx context.Context, t *life.Together, at life.Phase, done func() (bool, error)) error {
	began := time.Now()
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	for {
		v.mu.Lock()
		changed := v.changed
		v.mu.Unlock()
		// First what is decided: it holds, whatever became of the others since.
		if ok, err := done(); ok || err != nil {
			return err
		}
		_, late, err := t.Reached(at, v.get)
		if err != nil {
			return fmt.Errorf("the group is failed over together or not at all: %w", err)
		}
		for _, m := range late {
			if o := v.get(m).Order.Together; (o == nil || o.ID != t.ID) && time.Since(began) > gatherTime {
				return fmt.Errorf("the group is failed over together or not at all: machine %s was not asked within %v", m, gatherTime)
			}
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// drainTogether makes the one final point of a joint failover: when the applications of all
// members are stopped, the member that leads has all of them cut in one barrier.
func (v *lives) drainTogether(ctx context.Context, l *life.Life) (life.Event, error) {
	t := l.Order.Together
	j, err := v.decided(ctx, t)
	if err != nil {
		return life.Event{}, err
	}
	if j.Point == "" {
		if err := v.quiesce(ctx, l); err != nil {
			return life.Event{}, err
		}
		v.meet(t.ID, func(m *meeting) { m.quiesced[l.Machine] = true })
		err := v.together(ctx, t, life.Draining, func() (bool, error) {
			if !t.Leads(l.Machine) {
				j, err = v.decided(ctx, t)
				return j.Point != "", err
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			return len(v.meetings[t.ID].quiesced) == len(t.Members), nil
		})
		if err != nil {
			return life.Event{}, err
		}
		if t.Leads(l.Machine) {
			if j.Point, err = v.finalPoint(ctx, t.Group, t.Members); err != nil {
				return life.Event{}, err
			}
			if err := v.decide(ctx, t, j); err != nil {
				return life.Event{}, err
			}
			v.meet(t.ID, func(*meeting) {})
		}
	}
	return life.Event{Point: j.Point, Text: fmt.Sprintf("final point %s of %s", j.Point, strings.Join(t.Members, ", "))}, nil
}

// fenceTogether goes on when all members are fenced and nothing of any is lost.
func (v *lives) fenceTogether(ctx context.Context, l *life.Life) (uint64, error) {
	t := l.Order.Together
	j, err := v.decided(ctx, t)
	if err != nil || j.Fenced {
		return j.Losses[l.Machine], err
	}
	loss, err := v.lossOf(ctx, l)
	if err != nil {
		return 0, err
	}
	v.meet(t.ID, func(m *meeting) { m.fenced[l.Machine] = loss })
	err = v.together(ctx, t, life.Fencing, func() (bool, error) {
		if !t.Leads(l.Machine) {
			j, err = v.decided(ctx, t)
			return j.Fenced, err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		m := v.meetings[t.ID]
		if len(m.fenced) < len(t.Members) {
			return false, nil
		}
		j.Fenced, j.Losses = true, map[string]uint64{}
		for name, n := range m.fenced {
			j.Losses[name] = n
		}
		return true, nil
	})
	if err != nil || !t.Leads(l.Machine) {
		return loss, err
	}
	if err := v.decide(ctx, t, j); err != nil {
		return 0, err
	}
	v.meet(t.ID, func(*meeting) {})
	return loss, nil
}
