package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/fixup"
	"github.com/leeward-dr/leeward/control/target/overlay"
)

// CanFit says why m's disks cannot be changed here, before anything is done.
func (t *Target) CanFit(m *target.Machine) error {
	if len(m.Disks) > maxDisks {
		return fmt.Errorf("machine %s has %d disks, a helper that looks into them has room for %d: use fix-ups off if it has what it needs", m.Name, len(m.Disks), maxDisks)
	}
	if _, err := fixup.FindKernel(t.cfg.Helper.Kernel); err != nil {
		return fmt.Errorf("%w; or use fix-ups off if the machine has the drivers", err)
	}
	if _, err := exec.LookPath(t.cfg.Binary); err != nil {
		return fmt.Errorf("%s not found, which the helper that looks into the machine's disks runs in: apt-get install qemu-system-x86, or use fix-ups off", t.cfg.Binary)
	}
	return nil
}

// Fit does to m's disks what spec says, on overlays in dir, and boots nothing: the machine
// is to run somewhere else. In a directory where it was done before it is not done again. If
// the machine cannot be made fit, the error says why.
func (t *Target) Fit(ctx context.Context, m *target.Machine, spec fixup.Spec, dir string) (*fixup.Fitted, error) {
	f := &fixup.Fitted{}
	spec.Disks = names(m.Disks)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, fixupFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Fresh = true
		err = t.fit(ctx, m, spec, dir, &f.Report)
	case err == nil:
		err = json.Unmarshal(b, &f.Report)
	}
	if err != nil {
		return nil, err
	}
	var all []*overlay.Overlay
	f.Close = func() (err error) {
		for _, o := range all {
			err = errors.Join(err, o.Close())
		}
		return err
	}
	for i, d := range m.Disks {
		base, ok := d.(target.Restorer)
		if !ok {
			return nil, errors.Join(fmt.Errorf("disk %s cannot be restored as a whole", d.Name()), f.Close())
		}
		o, err := overlay.Open(base, filepath.Join(dir, exportName(i)+".overlay"))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("disk %s: %w", d.Name(), err), f.Close())
		}
		all = append(all, o)
		f.Disks = append(f.Disks, overlay.Apply(base, o))
	}
	return f, nil
}

// fit lets a helper do it, and writes down that it is done when all of it is on the disk.
func (t *Target) fit(ctx context.Context, m *target.Machine, spec fixup.Spec, dir string, report *fixup.Report) (err error) {
	a, _ := t.accel.find(ctx, t.cfg.Binary)
	r := t.newRun(m, dir, a)
	defer func() { err = errors.Join(err, r.release()) }()
	if err := r.export(m.Disks, false); err != nil {
		return err
	}
	done, err := r.helper.run(ctx, spec)
	if err != nil {
		return err
	}
	if len(done.Cannot) > 0 {
		*report = *done
		return fmt.Errorf("the machine cannot be made fit: %s: use fix-ups off if it has what it needs", strings.Join(done.Cannot, "; "))
	}
	if err := r.flush(); err != nil {
		return err
	}
	b, err := json.Marshal(done)
	if err != nil {
		return err
	}
	*report = *done
	return keep(filepath.Join(dir, fixupFile), b)
}

// keep writes a file as a whole, so that it is there after a failure of power, or is not.
func keep(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
