package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
)

const defaultRows = 50

type pointFlags struct {
	vault       vaultFlags
	consistency string
	since       string
	limit       int
}

func (a *app) pointCommand() *cobra.Command {
	var f pointFlags
	ls := &cobra.Command{
		Use: "ls [MACHINE|GROUP]", Short: "List recovery points, the oldest first", Args: args("[MACHINE|GROUP]"),
		Long: "List recovery points, the oldest first. With --vault they are read from the vault itself, with nothing\n" +
			"but its key; otherwise control is asked. A table shows the newest 50 unless --limit says otherwise.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.pointList(cmd.Context(), &f, args) },
	}
	ls.Flags().StringVar(&f.consistency, "consistency", "", "only crash or app")
	ls.Flags().StringVar(&f.since, "since", "", "only cuts at or after an RFC 3339 time, or younger than a duration like 2h")
	ls.Flags().IntVar(&f.limit, "limit", 0, "only the newest so many (0: all; a table: 50)")
	f.vault.add(ls)

	var v vaultFlags
	show := &cobra.Command{
		Use: "show POINT", Short: "Show a recovery point: id, or the start of one", Args: args("POINT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.pointShow(cmd.Context(), &v, args[0]) },
	}
	v.add(show)
	return noun("point", "Recovery points", append([]*cobra.Command{ls, show}, a.pinCommands()...)...)
}

func (f *pointFlags) query(args []string) (api.Query, error) {
	q := api.Query{Consistency: f.consistency, Limit: f.limit}
	if len(args) > 0 {
		q.Machine = args[0]
	}
	switch f.consistency {
	case "", "crash", "app":
	default:
		return q, Usage("", "--consistency is %q: use crash or app", f.consistency)
	}
	var err error
	q.Since, err = since(f.since)
	return q, err
}

// since reads a time, or how long ago.
func since(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().UTC().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, Usage("", "--since is %q: use a time like 2026-11-22T14:00:00Z or a duration like 2h", s)
	}
	return t, nil
}

func (a *app) pointList(ctx context.Context, f *pointFlags, args []string) error {
	q, err := f.query(args)
	if err != nil {
		return err
	}
	var all []api.Point
	if f.vault.url != "" {
		all, err = a.offlinePoints(ctx, &f.vault, q)
	} else {
		all, err = a.onlinePoints(ctx, q)
	}
	if err != nil {
		return err
	}
	return a.print(items("leeward.points.v1", all), func(w io.Writer) {
		if len(all) == 0 {
			fmt.Fprintln(w, "no recovery point yet: the first one follows the initial replication")
			return
		}
		shown := all
		if f.limit == 0 {
			shown = api.Newest(all, defaultRows)
		}
		pointTable(w, shown)
		flush(w)
		if n := len(all) - len(shown); n > 0 {
			fmt.Fprintf(w, "%d older ones: see them with --limit %d\n", n, len(all))
		}
	})
}

func (a *app) onlinePoints(ctx context.Context, q api.Query) ([]api.Point, error) {
	c, done, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return c.Points(ctx, q)
}

// offlinePoints reads the points from the vault. Damaged ones are told of.
func (a *app) offlinePoints(ctx context.Context, f *vaultFlags, q api.Query) ([]api.Point, error) {
	v, err := f.open(ctx, a)
	if err != nil {
		return nil, err
	}
	all, err := a.pointsOf(ctx, v)
	if err != nil {
		return nil, err
	}
	var out []api.Point
	for _, p := range all {
		if q.Machine != "" && p.Group != q.Machine && len(failover.Of([]*vault.Point{p}, q.Machine)) == 0 {
			continue
		}
		if q.Consistency != "" && p.Consistency != q.Consistency || p.Time.Before(q.Since) {
			continue
		}
		out = append(out, api.PointOf(p))
	}
	return api.Newest(out, q.Limit), nil
}

func (a *app) pointsOf(ctx context.Context, v *vault.Vault) ([]*vault.Point, error) {
	all, damaged, err := v.Points(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, err := range damaged {
		a.note("leeward: warning: %v", err)
	}
	return all, nil
}

func pointTable(w io.Writer, all []api.Point) {
	row(w, "POINT", "TIME", "AGE", "CONSISTENCY", "GROUP", "DISKS", "SIZE", "FROZEN", "LISTED AFTER")
	for _, p := range all {
		disks, total := 0, uint64(0)
		for _, m := range p.Machines {
			disks += len(m.Disks)
			for _, d := range m.Disks {
				total += d.SizeBytes
			}
		}
		frozen := ""
		if p.FrozenSeconds > 0 {
			frozen = fmt.Sprintf("%.0f ms", p.FrozenSeconds*1000)
		}
		row(w, p.ID, stamp(p.Time), span(time.Since(p.Time)), p.Consistency, p.Group, disks, size(total), frozen, span(p.Listed.Sub(p.Time)))
	}
}

func (a *app) pointShow(ctx context.Context, f *vaultFlags, id string) error {
	var p *api.Point
	if f.url != "" {
		v, err := f.open(ctx, a)
		if err != nil {
			return err
		}
		all, err := a.pointsOf(ctx, v)
		if err != nil {
			return err
		}
		found, err := failover.ByID(all, id)
		if err != nil {
			return err
		}
		out := api.PointOf(found)
		out.Schema = "leeward.point.v1"
		p = &out
	} else {
		c, done, err := a.connect(ctx)
		if err != nil {
			return err
		}
		defer done()
		if p, err = c.Point(ctx, id); err != nil {
			return err
		}
	}
	return a.print(p, func(w io.Writer) {
		row(w, "point", p.ID)
		row(w, "group", p.Group)
		row(w, "time", stamp(p.Time))
		row(w, "consistency", p.Consistency)
		row(w, "frozen", fmt.Sprintf("%.1f ms", p.FrozenSeconds*1000))
		if len(p.Machines) > 1 {
			row(w, "skew", fmt.Sprintf("%.1f ms", p.SkewSeconds*1000))
			for _, m := range p.Machines {
				row(w, "frozen "+m.Machine, fmt.Sprintf("%.1f ms", m.Frozen*1000))
			}
		}
		row(w, "listed", stamp(p.Listed))
		if p.Pinned {
			row(w, "pinned", firstOf(p.Name, "yes"))
		}
		flush(w)
		fmt.Fprintln(w)
		row(w, "MACHINE", "DISK", "SIZE", "EPOCH", "NUMBER", "FROZEN", "DIGEST", "NOTE")
		for _, m := range p.Machines {
			for _, d := range m.Disks {
				row(w, m.Machine, d.Disk, size(d.SizeBytes), d.Epoch, d.Number, d.Frozen, d.Digest[:min(16, len(d.Digest))], d.Note)
			}
		}
	})
}
