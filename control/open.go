package control

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// lookupOpen finds who protects a disk in the epoch of a receipt. That the vault
// cannot say it is no reason to know less of the rest; the next receipt asks again.
func (s *Service) lookupOpen(ctx context.Context, r *wire.Receipt) {
	id := vault.DiskID{Machine: r.Machine, Disk: r.Disk}
	if r.Epoch == 0 {
		return
	}
	o, err := s.vault.Opened(ctx, id, r.Epoch)
	switch {
	case err == nil:
		s.state.opened(id, r.Epoch, o)
	case ctx.Err() == nil:
		s.log.Debug("cannot read who opened an epoch", "disk", id.String(), "epoch", r.Epoch, "err", err)
	}
}

// subjectCount counts the messages of CHANGES on one subject.
func (s *Service) subjectCount(ctx context.Context, subject string) (uint64, error) {
	st, err := s.bus.JS.Stream(ctx, streams.Changes)
	if err != nil {
		return 0, err
	}
	i, err := st.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0, err
	}
	return i.State.Subjects[subject], nil
}
