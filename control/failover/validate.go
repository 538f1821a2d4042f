package failover

import (
	"context"
	"fmt"

	"github.com/leeward-dr/leeward/consumers/vault"
)

// Fitness is what can be said of a request before anything is done.
type Fitness struct {
	Point *vault.Point
	Size  int64 // of all disks in bytes
	Data  int64 // of that, what may not be zero
	// Short says which disks the point lacks, or which newer points were passed over because
	// they lack some; empty if nothing is to be said.
	Short string
}

// Validate chooses the point of a request, opens its disks and asks the target, as a job
// would, and does nothing. An error says why the job would fail; what was found until then
// is returned with it.
func (e *Engine) Validate(ctx context.Context, r Request) (*Fitness, error) {
	f := new(Fitness)
	if err := r.Validate(); err != nil {
		return f, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	t, err := e.cfg.Target(r, nil)
	if err != nil {
		return f, err
	}
	p, m, short, err := e.choose(ctx, r)
	if err != nil {
		return f, err
	}
	f.Point, f.Short = p, short
	all, err := open(ctx, e.cfg.Vault, m)
	if err != nil {
		return f, err
	}
	defer all.Close()
	for _, d := range all {
		f.Size += d.Size()
		f.Data += d.Data()
	}
	if err := t.Validate(ctx, machine(m, all, r.Options)); err != nil {
		return f, fmt.Errorf("target %s cannot bring up %s: %w", t.Name(), r.Machine, refused{err})
	}
	return f, nil
}
