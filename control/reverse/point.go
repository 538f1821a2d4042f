package reverse

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams/wire"
)

// errMuch means that too much changed to be read while the machine stands still.
var errMuch = errors.New("too much changed to be read while the machine stands still")

const (
	rounds   = 8 // before the machine is stopped, at most
	attempts = 3 // to stop it, for one point
)

// point cuts all disks at one instant and publishes the marker. What was not published
// stays dirty.
func (e *Exporter) point(ctx context.Context, pause func(context.Context) (func() error, error)) (*wire.Marker, error) {
	for i := range attempts {
		if err := e.rounds(ctx); err != nil {
			return nil, err
		}
		c, err := e.catch(ctx, pause)
		if errors.Is(err, errMuch) && i+1 < attempts {
			continue
		}
		if err != nil {
			return nil, err
		}
		return e.publish(ctx, c)
	}
	return nil, errMuch // not reached
}

// rounds sends what changed until little is left or it stops getting less.
func (e *Exporter) rounds(ctx context.Context) error {
	last := int64(-1)
	for range rounds {
		left := make([]int64, len(e.disks))
		err := e.each(ctx, func(ctx context.Context, r *replica) (err error) {
			left[e.index(r)], err = r.round(ctx)
			return err
		})
		if err != nil {
			return err
		}
		all := int64(0)
		for _, n := range left {
			all += n
		}
		if all <= e.cfg.PauseBytes/4 || last >= 0 && all >= last {
			return nil
		}
		last = all
	}
	return nil
}

func (e *Exporter) index(r *replica) int {
	for i, x := range e.disks {
		if x == r {
			return i
		}
	}
	return -1
}

// caught is what was read of all disks while the machine stood still.
type caught struct {
	at     time.Time
	paused time.Duration
	pieces [][]piece // by disk
}

type piece struct {
	start uint64
	data  []byte
}

func (e *Exporter) catch(ctx context.Context, pause func(context.Context) (func() error, error)) (*caught, error) {
	limited, cancel := context.WithTimeoutCause(ctx, e.cfg.PauseLimit, fmt.Errorf("the machine would stand still for more than %s", e.cfg.PauseLimit))
	defer cancel()
	began := time.Now()
	resume, err := pause(limited)
	if err != nil {
		return nil, fmt.Errorf("make the machine stand still: %w", err)
	}
	c := &caught{at: time.Now(), pieces: make([][]piece, len(e.disks))}
	left := uint64(0)
	for _, r := range e.disks {
		r.take()
		left += r.dirty.Len() * blockSize
	}
	if left > uint64(e.cfg.PauseBytes) {
		err = fmt.Errorf("%w: %d KiB, limit %d KiB", errMuch, left>>10, e.cfg.PauseBytes>>10)
	} else {
		err = e.each(limited, func(ctx context.Context, r *replica) error {
			return r.read(ctx, &r.dirty, func(start uint64, data []byte) error {
				c.pieces[e.index(r)] = append(c.pieces[e.index(r)], piece{start, append([]byte(nil), data...)})
				return nil
			})
		})
	}
	// It goes on by itself when the time is over; then nobody knows what was read.
	if err == nil && limited.Err() != nil {
		err = context.Cause(limited)
	}
	err = errors.Join(err, resume())
	c.paused = time.Since(began)
	return c, err
}

// publish sends what was caught, the cuts behind it, and the marker.
func (e *Exporter) publish(ctx context.Context, c *caught) (*wire.Marker, error) {
	m := &wire.Marker{
		ID:    c.at.UTC().Format("20060102T150405") + "-" + strings.ToLower(rand.Text()[:8]),
		Group: e.cfg.Group, Time: c.at.UnixNano(), Consistency: wire.Crash, Frozen: c.paused.Nanoseconds(),
	}
	cuts := make([]wire.DiskCut, len(e.disks))
	err := e.each(ctx, func(ctx context.Context, r *replica) error {
		i := e.index(r)
		size := uint64(r.disk.Overlay.Size())
		b := r.pub.Builder()
		for _, p := range c.pieces[i] {
			if err := r.add(ctx, b, p.start, p.data, nil); err != nil {
				return err
			}
		}
		if err := b.Flush(ctx); err != nil {
			return err
		}
		n, err := r.pub.Cut(ctx, &wire.Cut{Point: m.ID, Group: m.Group, Time: m.Time, Consistency: m.Consistency, Size: size})
		if err != nil {
			return err
		}
		r.dirty = capture.Set{}
		cuts[i] = wire.DiskCut{Disk: r.name, Epoch: r.pub.Epoch(), Number: n, Size: size, Frozen: true, Note: "cut at the hypervisor: what the machine had not flushed is missing, as after a power failure"}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.Members = []wire.Member{{Machine: e.cfg.Machine, Facts: e.cfg.Facts, Disks: cuts}}
	return m, markers.Publish(ctx, e.bus.JS, m)
}

// held waits until the vault holds all that a marker names.
func (e *Exporter) held(ctx context.Context, m *wire.Marker) error {
	return e.each(ctx, func(ctx context.Context, r *replica) error {
		cut := m.Members[0].Disks[e.index(r)]
		_, err := r.await(ctx, func(rc *wire.Receipt) bool { return rc.Epoch == cut.Epoch && rc.Number >= cut.Number })
		return err
	})
}
