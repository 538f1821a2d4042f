package control

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
)

// changeStreams returns the streams of changes of all pools, as they are now.
func (s *Service) changeStreams(ctx context.Context) (all []jetstream.Stream, err error) {
	pools, err := streams.Pools(ctx, s.bus.JS)
	if err != nil {
		return nil, err
	}
	for _, p := range pools {
		st, err := s.bus.JS.Stream(ctx, p.Stream())
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", p.Stream(), err)
		}
		all = append(all, st)
	}
	return all, nil
}

// waitingChanges counts the messages of a disk that are not in the vault, and the bytes
// that they have about.
func (s *Service) waitingChanges(ctx context.Context, machine, disk string) (messages, bytes uint64, err error) {
	all, err := s.changeStreams(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, st := range all {
		i, err := st.Info(ctx, jetstream.WithSubjectFilter(streams.AnyChanges(machine, disk)))
		if err != nil {
			return 0, 0, fmt.Errorf("look at the changes of disk %s/%s: %w", machine, disk, err)
		}
		for _, n := range i.State.Subjects {
			messages += n
			bytes += n * (i.State.Bytes / max(1, i.State.Msgs))
		}
	}
	return messages, bytes, nil
}
