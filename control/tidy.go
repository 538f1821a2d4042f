package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

// kindUntidy is the kind of the event that tells of a vault that only grows.
const kindUntidy = "vault-untidy"

// maxUntidy is of how many disks that is told.
const maxUntidy = 20

// tidy removes points that no policy keeps, and folds what no point shows any more,
// again and again until control stops. Deleting is control's right: process servers
// only create.
func (s *Service) tidy() {
	if s.cfg.TidyEvery <= 0 {
		return
	}
	var told string // the trouble that was told of last
	for s.sleep(s.cfg.TidyEvery) {
		m, err := s.tidyOnce(s.base)
		switch {
		case s.base.Err() != nil:
			return
		case err == nil && told != "":
			s.log.Info("the vault can be tidied again")
			told = ""
		case err != nil && err.Error() != told:
			told = err.Error()
			s.tellUntidy(m, err)
		}
	}
}

// tidyOnce does it once.
func (s *Service) tidyOnce(ctx context.Context) (*vault.Maintained, error) {
	return s.maintain(ctx, nil)
}

// maintain tidies the vault and forgets the points that went; drop says of which groups
// all go.
func (s *Service) maintain(ctx context.Context, drop func(group string) bool) (*vault.Maintained, error) {
	m, err := s.vault.Maintain(ctx, vault.MaintainOptions{KeepOf: s.retention, Drop: drop, InUse: s.pointsInUse, Rate: s.cfg.TidyRate})
	gone := map[string]bool{}
	for _, p := range m.Removed {
		if err != nil { // it may have failed before it removed this one
			if _, here := s.vault.Point(ctx, p.ID); !errors.Is(here, vault.ErrNotFound) {
				continue
			}
		}
		gone[p.ID] = true
	}
	s.state.forget(gone)
	if len(gone)+m.Deleted+m.Folded > 0 {
		s.log.Info("the vault was tidied", "points_removed", len(gone), "points_kept", len(m.Kept), "segments_folded", m.Folded,
			"objects_deleted", m.Deleted, "freed_bytes", m.Freed, "took", m.Took.Round(time.Millisecond))
	}
	if err == nil {
		err = s.vault.DropRecords(ctx, keepVersions)
	}
	return m, err
}

// tellUntidy tells of a vault that could not be tidied.
func (s *Service) tellUntidy(m *vault.Maintained, err error) {
	s.log.Error("the vault cannot be tidied, it goes on to grow; trying again later", "err", err)
	what := fmt.Sprintf("the vault cannot be tidied, it goes on to grow: %v", err)
	if len(what) > wire.MaxText {
		what = what[:wire.MaxText]
	}
	ids := m.Trouble
	if all := s.state.pointsOf(""); len(ids) == 0 && len(all) > 0 {
		// It failed before it came to any disk: those of the newest point stand for all.
		for _, k := range all[len(all)-1].Machines {
			for _, d := range k.Disks {
				ids = append(ids, vault.DiskID{Machine: k.Machine, Disk: d.Disk})
			}
		}
	}
	for _, d := range ids[:min(len(ids), maxUntidy)] {
		s.publish(s.base, "", &wire.Event{
			Time: time.Now().UnixNano(), Machine: d.Machine, Disk: d.Disk, Kind: kindUntidy,
			Severity: wire.Warning, What: what, Try: "leeward vault check",
		})
	}
}
