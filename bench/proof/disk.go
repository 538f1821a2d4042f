package proof

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/load"
	"github.com/leeward-dr/leeward/bench/rig"
)

// place is one filesystem of the disk.
type place struct {
	fs, dev, dir string
	unmount      func() error
}

// missing says why what is to be proven cannot be tried here.
func missing(fs string, o Options) error {
	why := reason(load.Missing())
	if o.Pgbench {
		why = errors.Join(why, reason(load.NoPostgres()))
	}
	for name := range strings.SplitSeq(fs, "+") {
		why = errors.Join(why, reason(rig.Missing(name)))
	}
	if strings.Contains(fs, "+") {
		if m, ok := rig.Have("sfdisk", "partx"); !ok {
			why = errors.Join(why, errors.New(m+" is not installed"))
		}
	}
	return why
}

// disk makes the disk and its filesystems: one on the whole disk, or, of "a+b+c",
// each on a partition.
func (t *trial) disk(ctx context.Context) (err error) {
	if t.file, err = t.rig.File("disk.img", t.o.Size); err != nil {
		return err
	}
	if t.dev, err = t.rig.Loop(ctx, t.file); err != nil {
		return err
	}
	names, devs := strings.Split(t.fs, "+"), []string{t.dev}
	if len(names) > 1 {
		if devs, err = t.rig.Partition(ctx, t.dev, len(names)); err != nil {
			return err
		}
	}
	for i, fs := range names {
		p := place{fs: fs, dev: devs[i]}
		if err := rig.Mkfs(ctx, fs, p.dev); err != nil {
			return err
		}
		if p.dir, p.unmount, err = t.rig.Mount(ctx, fmt.Sprintf("mnt%d", i), fs, p.dev, t.o.Mount); err != nil {
			return err
		}
		t.places = append(t.places, p)
	}
	return nil
}

// unmount unmounts all filesystems.
func (t *trial) unmount() error {
	var err error
	for _, p := range t.places {
		err = errors.Join(err, p.unmount())
	}
	return err
}

// startLoad starts everything that writes and returns what stops it.
func (t *trial) startLoad(ctx context.Context) (stop func() error, err error) {
	churning, cancel := context.WithCancel(ctx)
	n, churns := int64(len(t.places)), 0
	ended := make(chan error, n)
	var writers []*rig.Process
	var db *load.Postgres
	stop = func() (err error) {
		cancel()
		for _, w := range writers {
			err = errors.Join(err, w.Alive(), w.Kill()) // it must have written to the end
		}
		for range churns {
			err = errors.Join(err, <-ended)
		}
		if db != nil {
			err = errors.Join(err, db.Stop())
		}
		return err
	}
	if t.o.Pgbench {
		if db, err = load.StartPostgres(ctx, t.rig, t.places[0].dir); err != nil {
			return nil, errors.Join(err, stop())
		}
		clients, err := db.Bench(t.rig, 2)
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		writers = append(writers, clients)
	}
	for i, p := range t.places {
		fio, err := load.StartFio(t.rig, fmt.Sprintf("fio%d", i), p.dir, t.o.Size/n/3, t.o.Rate/n, t.o.Seed+uint64(i))
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		writers = append(writers, fio)
		churn := &load.Churn{Dir: p.dir, Room: t.o.Size / n / 8, Seed: t.o.Seed + uint64(i), Pause: 20 * time.Millisecond, Trim: 3 * time.Second}
		churns++
		go func() { ended <- churn.Run(churning) }()
	}
	return stop, nil
}

// cutsDir is where an agent in another process leaves the images of its cuts.
func (t *trial) cutsDir() string { return filepath.Join(t.rig.Dir, "cuts") }
