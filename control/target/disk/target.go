package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/libvirt"
)

// Target writes the disks of machines instead of starting them. It is a target.Target
// whose proof of life is that everything was written and verified.
type Target struct {
	out string
	o   Options
}

// NewTarget returns a target that writes to out: a file or block device for a machine
// with one disk, or else a directory, made if absent, for files named MACHINE-DISK with
// the format as their ending.
func NewTarget(out string, o Options) *Target { return &Target{out, o} }

// Name returns "disk".
func (t *Target) Name() string { return "disk" }

// Validate says why m cannot be written.
func (t *Target) Validate(_ context.Context, m *target.Machine) error {
	if err := m.Check(); err != nil {
		return err
	}
	if t.out == "" {
		return errors.New("it is not said where to write the disks")
	}
	o := t.o
	if err := o.check(); err != nil {
		return err
	}
	for i, path := range t.paths(m) {
		if _, ok := m.Disks[i].(target.Restorer); !ok {
			return fmt.Errorf("disk %s cannot be restored as a whole", m.Disks[i].Name())
		}
		if _, err := destination(path, o); err != nil {
			return err
		}
	}
	return nil
}

// paths says where each disk of m goes.
func (t *Target) paths(m *target.Machine) (all []string) {
	st, err := os.Stat(t.out)
	if len(m.Disks) == 1 && (err != nil || !st.IsDir()) && !os.IsPathSeparator(t.out[len(t.out)-1]) {
		return []string{t.out}
	}
	for _, d := range m.Disks {
		all = append(all, filepath.Join(t.out, m.Name+"-"+d.Name()+"."+string(cmp.Or(t.o.Format, Raw))))
	}
	return all
}

// written is a machine whose disks are being written.
type written struct {
	cancel   context.CancelFunc
	done     chan struct{}
	err      error // after done
	took     time.Duration
	evidence []string
}

// Start begins to write. Nothing is left in the run's directory.
func (t *Target) Start(ctx context.Context, m *target.Machine, _ string) (target.Running, error) {
	if err := errors.Join(t.Validate(ctx, m), ctx.Err()); err != nil {
		return nil, err
	}
	// The machine outlives the call that starts it: only Stop ends it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &written{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		begin := time.Now()
		w.err = t.write(ctx, m, w)
		w.took = time.Since(begin)
	}()
	return w, nil
}

func (t *Target) write(ctx context.Context, m *target.Machine, w *written) error {
	for i, path := range t.paths(m) {
		if path != t.out {
			if err := os.MkdirAll(t.out, 0o700); err != nil {
				return fmt.Errorf("make directory for disks: %w", err)
			}
		}
		d := m.Disks[i]
		if err := Write(ctx, d, path, t.o); err != nil {
			return err
		}
		w.evidence = append(w.evidence, fmt.Sprintf("disk %s: %d bytes as %s in %s, verified", d.Name(), d.Size(), cmp.Or(t.o.Format, Raw), path))
	}
	if t.o.Libvirt {
		return t.describe(m, w)
	}
	return nil
}

// describe writes what libvirt needs to know of the machine. It replaces what is there: it
// is of these disks.
func (t *Target) describe(m *target.Machine, w *written) error {
	var where []libvirt.Disk
	paths := t.paths(m)
	for _, p := range paths {
		full, err := filepath.Abs(p)
		if err != nil {
			return err
		}
		d := libvirt.Disk{File: full, Format: string(t.o.Format)}
		if t.o.Format == VHD {
			d.Format = "vpc"
		}
		if st, err := os.Stat(p); err == nil {
			d.Block = st.Mode()&os.ModeDevice != 0
		}
		where = append(where, d)
	}
	b, err := libvirt.Domain(m, where, libvirt.Options{Virtio: t.o.Virtio})
	if err != nil {
		return err
	}
	dir := t.out
	if paths[0] == t.out {
		if where[0].Block {
			return fmt.Errorf("there is no folder for %s.xml beside a block device: write to a folder", m.Name)
		}
		dir = filepath.Dir(t.out)
	}
	file := filepath.Join(dir, m.Name+".xml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	w.evidence = append(w.evidence, "libvirt: virsh define "+file)
	return nil
}

// Probe waits until all disks are written, however long that takes: what p asks is
// asked of machines.
func (w *written) Probe(ctx context.Context, _ target.Probe) (*target.Result, error) {
	select {
	case <-w.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if w.err != nil {
		return nil, w.err
	}
	return &target.Result{Alive: true, Evidence: w.evidence, Boot: w.took}, nil
}

// Stop ends the writing if it goes on; what is complete stays.
func (w *written) Stop(context.Context) error {
	w.cancel()
	<-w.done
	return nil
}

// Wait blocks until all disks are written.
func (w *written) Wait(ctx context.Context) error {
	select {
	case <-w.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if errors.Is(w.err, context.Canceled) {
		return nil // by Stop
	}
	return w.err
}
