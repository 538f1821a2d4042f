package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/consumers/mastertarget"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
)

type masterFlags struct {
	machine, point, state string
	disks                 []string
	other, follow         bool
	every                 time.Duration
}

// masterTarget is `leeward mastertarget`: it runs where the disks are, with nothing but the
// vault.
func (a *app) masterTarget() *cobra.Command {
	var f masterFlags
	c := &cobra.Command{
		Use: "mastertarget", Short: "Bring a machine's disks home: write a recovery point onto them, only what differs", Args: args(),
		Long: "Bring a machine's disks home: compare them with a recovery point, fetch from the vault only what differs, write it,\n" +
			"and compare every byte with what the point promises. It goes on where it was after a failure of power. A second\n" +
			"run with a newer point fetches only what changed in between. Disks that are mounted or otherwise in use, that\n" +
			"do not fit, or that are not the machine's own are refused.",
	}
	fl := c.Flags()
	fl.StringVar(&f.machine, "machine", "", "machine")
	fl.StringSliceVar(&f.disks, "disk", nil, "disk and where it is, as `NAME=PATH`; may be repeated, one for each disk of the machine")
	fl.StringVar(&f.point, "point", failover.Latest, "latest, latest-app, an RFC 3339 time, or a point's id")
	fl.StringVar(&f.state, "state", "", "directory for what is known of the disks; not on one of them (default: home below --dir)")
	fl.BoolVar(&f.other, "other-disk", false, "the disks may be others than the machine had; what they hold is lost")
	fl.BoolVar(&f.follow, "follow", false, "go on with newer points until interrupted; then verify")
	fl.DurationVar(&f.every, "every", 5*time.Second, "with --follow: how often to look for a newer point")
	c.PreRunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case f.machine == "" || len(f.disks) == 0:
			return Usage(cmd.CommandPath()+" --help", "%s needs --machine and --disk NAME=PATH", cmd.CommandPath())
		case f.every < 100*time.Millisecond:
			return Usage("", "--every is %v: use at least 100ms", f.every)
		}
		return nil
	}
	return a.vaultVerb(c, func(ctx context.Context, v *vault.Vault, _ []string) error { return a.bringHome(ctx, v, &f) })
}

// broughtHome is what a master target did. Schema "leeward.mastertarget.v1".
type broughtHome struct {
	Schema   string     `json:"schema"`
	Machine  string     `json:"machine"`
	Point    string     `json:"point"`
	Time     time.Time  `json:"point_time"`
	Disks    []homeDisk `json:"disks"`
	Verified bool       `json:"verified"`
}

type homeDisk struct {
	Disk         string  `json:"disk"`
	Path         string  `json:"path"`
	Compared     int64   `json:"compared_bytes"`
	Differed     int64   `json:"differed_bytes"`
	FetchedBytes int64   `json:"fetched_bytes"`
	Seconds      float64 `json:"seconds"`
}

// masters are the disks at home, in the order of the machine.
type masters struct {
	open []*mastertarget.Master
	doc  broughtHome
}

func (a *app) bringHome(ctx context.Context, v *vault.Vault, f *masterFlags) (err error) {
	p, k, err := a.homePoint(ctx, v, f)
	if err != nil {
		return err
	}
	bar := newProgress(a.Err)
	defer bar.done()
	m := &masters{doc: broughtHome{Schema: "leeward.mastertarget.v1", Machine: f.machine}}
	defer func() {
		for _, x := range m.open {
			err = errors.Join(err, x.Close())
		}
	}()
	if err := m.openAll(ctx, a, v, f, k, bar); err != nil {
		return err
	}
	for {
		if err := m.bring(ctx, p, k); err != nil {
			return err
		}
		if !f.follow {
			break
		}
		t := time.NewTimer(f.every)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		if ctx.Err() != nil { // that is how it ends
			ctx = context.WithoutCancel(ctx)
			break
		}
		if p, k, err = a.homePoint(ctx, v, f); err != nil {
			return err
		}
	}
	for i := range k.Disks {
		if err := m.open[i].Verify(ctx, &k.Disks[i]); err != nil {
			return err
		}
	}
	m.doc.Verified = true
	bar.done()
	return a.print(m.doc, func(w io.Writer) {
		for _, d := range m.doc.Disks {
			fmt.Fprintf(w, "disk %s/%s is at home on %s: %s compared, %s differed, %s read from the vault\n", f.machine, d.Disk, d.Path, size(d.Compared), size(d.Differed), size(d.FetchedBytes))
		}
		fmt.Fprintf(w, "all is as at point %s of %s, verified\n", m.doc.Point, stamp(m.doc.Time))
	})
}

// homePoint chooses the point.
func (a *app) homePoint(ctx context.Context, v *vault.Vault, f *masterFlags) (*vault.Point, *vault.PointMachine, error) {
	all, err := a.pointsOf(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	p, err := failover.Select(all, f.machine, f.point)
	if err != nil {
		return nil, nil, err
	}
	for i := range p.Machines {
		if p.Machines[i].Machine == f.machine {
			return p, &p.Machines[i], nil
		}
	}
	return nil, nil, api.Errorf(api.CodeNotFound, "leeward point ls", "point %s has no machine %s", p.ID, f.machine)
}

func (m *masters) openAll(ctx context.Context, a *app, v *vault.Vault, f *masterFlags, k *vault.PointMachine, bar *progress) error {
	paths := map[string]string{}
	for _, d := range f.disks {
		name, path, err := namedDisk(d)
		if err != nil {
			return err
		}
		paths[name] = path
	}
	state := f.state
	if state == "" {
		state = filepath.Join(a.dir, "home")
	}
	for _, d := range k.Disks {
		path, ok := paths[d.Disk]
		if !ok {
			return Usage("", "it is not said where disk %s is: add --disk %s=PATH", d.Disk, d.Disk)
		}
		x, err := mastertarget.Open(ctx, mastertarget.Config{
			Vault: v, Disk: vault.DiskID{Machine: f.machine, Disk: d.Disk}, Path: path, StateDir: state, Size: d.Size, Other: f.other,
			Progress: func(what string, done, total int64) { bar.show(what+" "+d.Disk, done, total) },
		})
		if errors.Is(err, mastertarget.ErrRefused) {
			return api.Errorf(api.CodeRefused, "", "%w", err)
		}
		if err != nil {
			return err
		}
		m.open = append(m.open, x)
		m.doc.Disks = append(m.doc.Disks, homeDisk{Disk: d.Disk, Path: path})
	}
	return nil
}

func (m *masters) bring(ctx context.Context, p *vault.Point, k *vault.PointMachine) error {
	for i := range k.Disks {
		b, err := m.open[i].Bring(ctx, &k.Disks[i])
		if err != nil {
			return err
		}
		d := &m.doc.Disks[i]
		d.Compared, d.Differed, d.FetchedBytes, d.Seconds = d.Compared+b.Looked, d.Differed+b.Differ, d.FetchedBytes+b.Fetched, d.Seconds+b.Took.Seconds()
	}
	m.doc.Point, m.doc.Time = p.ID, p.Time.UTC()
	return nil
}
