package control

import (
	"context"

	"github.com/leeward-dr/leeward/consumers/vault"
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
