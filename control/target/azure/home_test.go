package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
)

// heldBy returns what a source holds: zeros outside of its extents.
func heldBy(s target.Source) ([]byte, error) {
	b := make([]byte, s.Size())
	var err error
	s.Extents(func(off, length int64) bool {
		_, err = s.ReadAt(b[off:off+length], off)
		return err == nil
	})
	return b, err
}

// wayHome turns a machine off, reads its disks, and turns it on again. Whatever is refused
// is asked for again, as control does.
func wayHome(ctx context.Context, run target.Homing, want ...[]byte) error {
	var errs []error
	for range 3 {
		err := once(ctx, run, want)
		if err == nil {
			return run.On(ctx)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func once(ctx context.Context, run target.Homing, want [][]byte) (err error) {
	if err := run.Off(ctx); err != nil {
		return err
	}
	all, shut, err := run.Disks(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shut(ctx)) }()
	for i, s := range all {
		b, err := heldBy(s)
		if err != nil {
			return err
		}
		if s.Name() != fmt.Sprintf("sd%c", 'a'+i) || !bytes.Equal(b, want[i]) {
			return fmt.Errorf("disk %s is not what the machine wrote", s.Name())
		}
	}
	return nil
}

// home: a machine is turned off, what it wrote is read from its disks, and it is turned on
// again, with every call failing once and with the process dying at every call; no disk is
// left open, and cleaning up leaves nothing.
func (r rig) home(t *testing.T) {
	was := [][]byte{content(50, 1<<20), content(51, 2<<20-1536)}
	is := [][]byte{bytes.Clone(was[0]), bytes.Clone(was[1])}
	copy(is[0][777<<10:], "written in Azure")
	clear(is[1][:8192])
	ctx, c, dir := ctxOf(t), r.cloud(t), t.TempDir()
	cfg := config(c, place(), false)
	started, err := New(cfg).Start(ctx, machine(was...), dir)
	if err == nil {
		_, err = started.Probe(ctx, booted)
	}
	if err != nil {
		t.Fatal(err)
	}
	run := started.(*Run)
	if _, _, err := run.Disks(ctx); err == nil {
		t.Error("the disks of a machine that runs are open")
	}
	for i, d := range c.Disks() {
		c.Fill(t, d, is[i])
	}
	c.At(0, armtest.Good)
	if err := wayHome(ctx, run, is...); err != nil {
		t.Fatal(err)
	}
	calls := c.Calls()
	if err := once(ctx, run, was); err == nil {
		t.Error("what is read is not compared")
	}
	full := os.Getenv("LEEWARD_FULL") == "1"
	done := map[armtest.Fate]int{}
	for n := 1; n <= len(calls) && !t.Failed(); n++ {
		for i, fate := range []armtest.Fate{armtest.Lost, armtest.Busy, armtest.Refused, armtest.Dead} {
			if !full && fate != armtest.Dead && n%3 != i {
				continue
			}
			c.At(n, fate)
			err := wayHome(ctx, run, is...)
			if fate == armtest.Dead {
				c.Revive()
				if run, err = Adopt(config(c, Place{}, false), dir); err == nil {
					err = wayHome(ctx, run, is...)
				}
			}
			if err != nil {
				t.Errorf("call %d, %s, was %s: %v", n, calls[n-1], fate, err)
			}
			done[fate]++
		}
	}
	t.Logf("%d calls on the way home: %v", len(calls), done)
	// It is removed while it is off, and its disks are open.
	c.At(0, armtest.Good)
	if err := run.Off(ctx); err != nil {
		t.Error(err)
	}
	if _, _, err := run.Disks(ctx); err != nil {
		t.Error(err)
	}
	if err := run.Stop(ctx); err != nil {
		t.Error(err)
	}
	clean(t, c, dir)
}
