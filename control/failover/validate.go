package failover

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/target"
)

// Fitness is what can be said of a request before anything is done.
type Fitness struct {
	Point *vault.Point
	Size  int64 // of all disks in bytes
	Data  int64 // of that, what may not be zero
	// Short says which disks the point lacks, or which newer points were passed over because
	// they lack some; empty if nothing is to be said.
	Short string
	// Fixups says what would be changed on the copy's disks so that it boots there, and what
	// would be left alone.
	Fixups []string
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
	if err := t.Validate(ctx, machine(p, m, all, r.Options)); err != nil {
		return f, fmt.Errorf("target %s cannot bring up %s: %w", t.Name(), r.Machine, refused{err})
	}
	if f.Fixups, err = e.rehearse(ctx, t, machine(p, m, all, r.Options)); err != nil {
		return f, fmt.Errorf("target %s cannot bring up %s: %w", t.Name(), r.Machine, refused{err})
	}
	return f, nil
}

// rehearsals begins the names of folders that are thrown away again.
const rehearsals = ".rehearsal-"

// rehearse lets a target that changes disks before it boots do so where nothing of it stays.
func (e *Engine) rehearse(ctx context.Context, t target.Target, m *target.Machine) (said []string, err error) {
	r, ok := t.(target.Rehearser)
	if !ok {
		return nil, nil
	}
	dir, err := os.MkdirTemp(e.cfg.Dir, rehearsals+"*")
	if err != nil {
		return nil, fmt.Errorf("make a directory to rehearse in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return r.Rehearse(ctx, m, dir)
}
