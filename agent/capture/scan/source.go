package scan

import (
	"context"
	"errors"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Source is the capture driver that hashes the disk. It implements capture.Source.
type Source struct {
	dev     Device
	opt     Options
	table   *Table
	pending *capture.Set // found by a Take that failed, to be in the next one
	started bool
	stats   Stats
}

var _ capture.Source = (*Source)(nil)

// New makes a source over a device. The table says what the other side holds; nil
// means that it holds zeros, so that the first Take is all that is not zero. The
// source closes the table.
func New(dev Device, o Options, table *Table) (*Source, error) {
	if table == nil {
		var err error
		if table, err = NewTable(dev.Blocks(), o.TableDir); err != nil {
			return nil, err
		}
	}
	if table.Blocks() != dev.Blocks() {
		return nil, errors.New("the table of sums is not of the disk's size: begin with a new one")
	}
	o.From = 0
	return &Source{dev: dev, opt: o.withDefaults(), table: table, pending: new(capture.Set)}, nil
}

// Name implements capture.Source.
func (s *Source) Name() string { return "scan" }

// Cheap implements capture.Source.
func (s *Source) Cheap() bool { return false }

// Guarantee implements capture.Source.
func (s *Source) Guarantee() string {
	return "the whole of " + s.dev.Path() + " is read and hashed for each cut: exact if nothing writes meanwhile, else each block is as it was when it was read"
}

// Start implements capture.Source.
func (s *Source) Start(ctx context.Context) error {
	if s.table.sums == nil {
		return errors.New("scan source is closed")
	}
	s.started = true
	return ctx.Err()
}

// Take implements capture.Source: it reads the whole disk. What it found before it
// failed is in the result of the next one.
func (s *Source) Take(ctx context.Context) (*capture.Set, error) {
	if !s.started {
		return nil, errors.New("scan source is not started")
	}
	m := newMeter()
	err := sweep(ctx, s.dev, s.opt, func(c *chunk) error {
		m.see(c)
		s.table.update(c.start, c.sums, func(start, count uint64) {
			m.Differ += count
			s.pending.Add(start, count)
		})
		return nil
	})
	s.stats = m.stop()
	if err != nil {
		return nil, err
	}
	taken := s.pending
	s.pending = new(capture.Set)
	return taken, nil
}

// Seed tells what the other side holds at blocks start, start+1, …: call it with
// what was sent whenever the disk may have changed between Take and reading. Unlike the
// other methods it may be called by many goroutines.
func (s *Source) Seed(start uint64, sums []wire.Sum) error { return s.table.Seed(start, sums) }

// Audit implements capture.Source: there is nothing that a scan could have missed.
func (s *Source) Audit(ctx context.Context) error { return ctx.Err() }

// Close implements capture.Source.
func (s *Source) Close() error {
	s.started = false
	return s.table.Close()
}

// Stats tells what the last Take did.
func (s *Source) Stats() Stats { return s.stats }
