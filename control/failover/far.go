package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/reverse"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/control/target/fixup"
	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Far returns the machine of a job that lives somewhere else and can be led home.
func (e *Engine) Far(ctx context.Context, job string) (target.Homing, error) {
	e.mu.Lock()
	l := e.jobs[job]
	e.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%w: %s, or it was cleaned up", ErrNoJob, job)
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("the machine of job %s: %w", job, ctx.Err())
	}
	l.cleanMu.Lock()
	defer l.cleanMu.Unlock()
	if l.running == nil {
		l.running = e.left(l)
	}
	h, ok := l.running.(target.Homing)
	if !ok {
		return nil, fmt.Errorf("job %s has no machine that can be led home from where it is", job)
	}
	return h, nil
}

// Fetch brings what a machine that lives somewhere else wrote last into the vault.
type Fetch struct {
	Far    target.Homing // off
	Vault  *vault.Vault
	Bus    *bus.Bus
	Point  *vault.PointMachine // the machine's newest point
	Holder string              // who the fence lets write
	// Fixer takes back what the machine's disks were changed for where it is; nil: nothing was.
	Fixer azure.Fixer
	Dir   string // for what differs, on its way; empty
	Log   *slog.Logger
}

// Fetched says what Do did, in bytes.
type Fetched struct {
	Point  string   // id of the point that was cut
	Read   int64    // of the machine's disks
	Differ int64    // of these, that the newest point had otherwise
	Undone []string // what was taken back
	Sent   uint64
}

// Do reads the machine's disks and compares them with the point by sums, takes back what they
// were changed for the place, publishes what the vault lacks then, and cuts the last point. It
// may be done again after a crash.
func (f *Fetch) Do(ctx context.Context) (got Fetched, err error) {
	var all disks
	var over []*overlay.Overlay
	defer func() {
		all.Close()
		for _, o := range over {
			err = errors.Join(err, o.Close())
		}
	}()
	if all, err = open(ctx, f.Vault, f.Point); err != nil {
		return got, err
	}
	for i, d := range all {
		o, err := overlay.New(d, filepath.Join(f.Dir, fmt.Sprintf("disk%d.overlay", i)))
		if err != nil {
			return got, err
		}
		over = append(over, o)
	}
	if err := f.read(ctx, all, over, &got); err != nil {
		return got, err
	}
	if f.Fixer != nil {
		if got.Undone, err = f.undo(ctx, all, over); err != nil {
			return got, fmt.Errorf("the machine would go home with what was changed for the place where it ran: %w", err)
		}
	}
	c := reverse.Config{
		Machine: f.Point.Machine, Holder: f.Holder, Log: f.Log,
		Facts: wire.Facts{Host: f.Point.Host, CPUs: f.Point.CPUs, Memory: f.Point.Memory, Firmware: f.Point.Firmware, OS: f.Point.OS, Kernel: f.Point.Kernel, NICs: f.Point.NICs},
		Pause: func(context.Context) (func() error, error) { return func() error { return nil }, nil },
	}
	for i, d := range all {
		c.Disks = append(c.Disks, reverse.Disk{Name: d.name, Base: d.at, Overlay: over[i]})
	}
	e, err := reverse.New(c, f.Bus, f.Vault)
	if err != nil {
		return got, err
	}
	m, err := e.Last(ctx)
	if err != nil {
		return got, err
	}
	got.Point, got.Sent = m.ID, e.Status().Sent
	return got, nil
}

const (
	fetchPiece   = 1 << 20 // bytes that are read and compared at once
	fetchWorkers = 8
)

// read puts into the overlays what the machine's disks hold otherwise than the point.
func (f *Fetch) read(ctx context.Context, all disks, over []*overlay.Overlay, got *Fetched) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, shut, err := f.Far.Disks(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shut(context.WithoutCancel(ctx))) }()
	named := map[string]target.Source{}
	for _, s := range from {
		named[s.Name()] = s
	}
	for i, d := range all {
		s := named[d.name]
		if s == nil || s.Size() != d.Size() {
			return fmt.Errorf("disk %s is not among those of the machine where it ran, or has another size there", d.name)
		}
		sums, err := f.Vault.SumsAt(ctx, d.id, d.at)
		if err != nil {
			return err
		}
		w := &fetching{from: s, to: over[i], sums: sums}
		if err := w.all(ctx, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.name, err)
		}
		got.Read, got.Differ = got.Read+w.read, got.Differ+w.differ
	}
	return nil
}

// fetching is one disk that is read.
type fetching struct {
	from         target.Source
	to           *overlay.Overlay
	sums         *vault.Sums // of the point
	read, differ int64
}

// piece is blocks that are looked at at once; of some the machine's disk holds nothing.
type piece struct {
	start, count int64
	there        bool
}

// runsOf lists what extents cover, in blocks: pairs of the first and the one behind the last.
func runsOf(extents func(func(off, length int64) bool)) (runs [][2]int64) {
	extents(func(off, length int64) bool {
		start, end := off/target.BlockSize, (off+length+target.BlockSize-1)/target.BlockSize
		if n := len(runs); n > 0 && runs[n-1][1] >= start {
			runs[n-1][1] = max(runs[n-1][1], end)
		} else {
			runs = append(runs, [2]int64{start, end})
		}
		return true
	})
	return runs
}

// pieces lists what is to be looked at: what the machine's disk holds, and what the point
// alone does, which is zeros now.
func pieces(there, point [][2]int64) (all []piece) {
	add := func(start, end int64, is bool) {
		for ; start < end; start += fetchPiece / target.BlockSize {
			all = append(all, piece{start, min(end-start, fetchPiece/target.BlockSize), is})
		}
	}
	for _, r := range there {
		add(r[0], r[1], true)
	}
	i := 0
	for _, r := range point {
		for i > 0 && there[i-1][1] > r[0] {
			i--
		}
		for ; i < len(there) && there[i][0] < r[1]; i++ {
			add(r[0], there[i][0], false)
			r[0] = max(r[0], there[i][1])
		}
		add(r[0], r[1], false)
	}
	return all
}

// all looks at everything that may differ.
func (w *fetching) all(ctx context.Context, base Disk) error {
	pieces := pieces(runsOf(w.from.Extents), runsOf(base.Extents))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchWorkers)
	differ := make([]int64, len(pieces))
	for i, p := range pieces {
		if p.there {
			w.read += p.count * target.BlockSize
		}
		g.Go(func() (err error) {
			if err := ctx.Err(); err != nil {
				return err
			}
			differ[i], err = w.piece(p.start, p.count, p.there)
			return err
		})
	}
	err := g.Wait()
	for _, n := range differ {
		w.differ += n
	}
	return err
}

// piece compares blocks, of which the machine's disk holds something or nothing, and returns
// how many bytes differ.
func (w *fetching) piece(start, count int64, there bool) (differ int64, err error) {
	data, off := make([]byte, count*target.BlockSize), start*target.BlockSize
	have := min(int64(len(data)), w.from.Size()-off)
	if there {
		if _, err := w.from.ReadAt(data[:have], off); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
	}
	want := w.sums.Read(uint64(start), int(count))
	for i := int64(0); i < count; i++ {
		b := data[i*target.BlockSize : (i+1)*target.BlockSize]
		sum := vault.SumOf(b)
		if sum == want[i] {
			continue
		}
		at, n := off+i*target.BlockSize, min(target.BlockSize, have-i*target.BlockSize)
		differ += n
		if sum == (vault.Sum{}) {
			err = w.to.WriteZeroes(at, n)
		} else {
			_, err = w.to.WriteAt(b[:n], at)
		}
		if err != nil {
			return differ, err
		}
	}
	return differ, nil
}

// undo takes back what was changed on the disks, which lies in the overlays with the rest.
func (f *Fetch) undo(ctx context.Context, all disks, over []*overlay.Overlay) (done []string, err error) {
	m := &target.Machine{Name: f.Point.Machine, CPUs: int(f.Point.CPUs), Memory: int64(f.Point.Memory), Firmware: f.Point.Firmware}
	for i, d := range all {
		m.Disks = append(m.Disks, overlay.Apply(d, over[i]))
	}
	if err := f.Fixer.CanFit(m); err != nil {
		return nil, err
	}
	dir := filepath.Join(f.Dir, "undo")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fitted, err := f.Fixer.Fit(ctx, m, fixup.Spec{Do: fixup.Undo}, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, fitted.Close()) }()
	for i, d := range fitted.Disks {
		c, ok := d.(*overlay.ChangedDisk)
		if !ok {
			return nil, fmt.Errorf("what was taken back on disk %s is not known", all[i].name)
		}
		buf := make([]byte, fetchPiece)
		c.Runs(func(off, length int64) bool {
			for end := off + length; off < end && err == nil; off += fetchPiece {
				b := buf[:min(fetchPiece, end-off)]
				if _, err = c.ReadAt(b, off); err == nil || errors.Is(err, io.EOF) {
					_, err = over[i].WriteAt(b, off)
				}
			}
			return err == nil
		})
		if err != nil {
			return nil, err
		}
	}
	return fitted.Changes, nil
}
