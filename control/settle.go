package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/streams"
)

const (
	settlePoll = 200 * time.Millisecond
	settleTime = 10 * time.Minute
)

// settle returns when everything of a machine that had arrived on the streams is
// processed: its changes are in the vault and its markers are decided, or are
// found to wait for changes that have not arrived.
func (s *Service) settle(ctx context.Context, name string) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, settleTime,
		fmt.Errorf("not done in %v; use --point %s to take what there is", settleTime, failover.LatestProcessed))
	defer cancel()
	changes, err := s.changeStreams(ctx)
	if err != nil {
		return err
	}
	markers, err := s.bus.JS.Stream(ctx, streams.Markers)
	if err != nil {
		return fmt.Errorf("look at %s: %w", streams.Markers, err)
	}
	marked := markers.CachedInfo().State.LastSeq
	for _, disk := range s.state.disksOf(name) {
		for _, st := range changes {
			arrived := st.CachedInfo().State.LastSeq
			err := poll(ctx, func() (bool, error) {
				// It is a work queue: what is still there is not in the vault.
				m, err := st.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(streams.AnyChanges(name, disk)))
				if errors.Is(err, jetstream.ErrMsgNotFound) {
					return true, nil
				}
				return err == nil && m.Sequence > arrived, err
			})
			if err != nil {
				return fmt.Errorf("the changes of disk %s/%s: %w", name, disk, err)
			}
		}
	}
	consumer, err := s.bus.JS.Consumer(ctx, streams.Markers, MarkersConsumer)
	if err != nil {
		return fmt.Errorf("look at consumer %s: %w", MarkersConsumer, err)
	}
	err = poll(ctx, func() (bool, error) {
		if s.marked.Load() >= marked {
			return true, nil
		}
		// The newest markers may have been purged: then there is nothing to wait for.
		info, err := consumer.Info(ctx)
		return err == nil && info.NumPending == 0 && info.Delivered.Stream <= s.marked.Load(), err
	})
	if err != nil {
		return fmt.Errorf("the markers: %w", err)
	}
	// Every receipt that matters was published; asking the vault needs none of them.
	s.decider.recheck()
	if err := s.decider.idle(ctx); err != nil {
		return fmt.Errorf("the recovery points: %w", err)
	}
	for _, disk := range s.state.disksOf(name) {
		if n := s.decider.waiting(vault.DiskID{Machine: name, Disk: disk}); n > 0 {
			s.log.Info("markers wait for changes that have not arrived", "machine", name, "disk", disk, "markers", n)
		}
	}
	return nil
}

func poll(ctx context.Context, done func() (bool, error)) error {
	t := time.NewTicker(settlePoll)
	defer t.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}
