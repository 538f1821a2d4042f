package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
)

// standbyRow is a disk that is on standby, as -o json lists it.
type standbyRow struct {
	Machine string `json:"machine"`
	api.Standby
}

// standbyDocument is one of them. Schema "leeward.standby.v1".
type standbyDocument struct {
	Schema string `json:"schema"`
	standbyRow
}

// standbyCommand looks at the copies of disks that are kept near their points.
func (a *app) standbyCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls [MACHINE]", Short: "List the disks on standby, of all machines or one", Args: args("[MACHINE]"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			all, err := standbys(ctx, c, args)
			if err != nil {
				return err
			}
			return a.print(items("leeward.standbys.v1", all), func(w io.Writer) { standbyTable(w, all, time.Now()) })
		}),
	}
	show := &cobra.Command{
		Use: "show MACHINE DISK", Short: "Show a disk on standby: where it is, what it holds, what was sent", Args: args("MACHINE", "DISK"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			all, err := standbys(ctx, c, args[:1])
			if err != nil {
				return err
			}
			for _, k := range all {
				if k.Disk == args[1] {
					return a.print(standbyDocument{Schema: "leeward.standby.v1", standbyRow: k}, func(w io.Writer) { standbyDetail(w, k, time.Now()) })
				}
			}
			return api.Errorf(api.CodeNotFound, "leeward standby ls", "no copy of disk %s of %s is kept, nor wanted", args[1], args[0])
		}),
	}
	a.watched(ls, show)
	return noun("standby", "Disks on standby in Azure, kept near the newest points (policies: standby_interval)", ls, show)
}

// standbys asks for what is kept of all machines, or of the one that is named.
func standbys(ctx context.Context, c *api.Client, only []string) (all []standbyRow, err error) {
	var machines []api.Machine
	if len(only) > 0 {
		m, err := c.Machine(ctx, only[0])
		if err != nil {
			return nil, err
		}
		machines = []api.Machine{*m}
	} else if machines, err = c.Machines(ctx, api.Query{}); err != nil {
		return nil, err
	}
	for _, m := range machines {
		for _, k := range m.Standby {
			all = append(all, standbyRow{Machine: m.Machine, Standby: k})
		}
	}
	return all, nil
}

func standbyTable(w io.Writer, all []standbyRow, now time.Time) {
	if len(all) == 0 {
		fmt.Fprintln(w, "no disk is on standby: give a policy a standby_interval (leeward policy set NAME standby_interval=15m)")
		return
	}
	row(w, "MACHINE", "DISK", "AT POINT", "OF", "BEHIND", "ALLOWED", "LAST SENT", "NEXT", "STATE")
	for _, k := range all {
		point, of, behind := "none yet", "", ""
		if k.Point != "" {
			point, of, behind = k.Point, stamp(k.Time), seconds(k.BehindSeconds)
		}
		row(w, k.Machine, k.Disk, point, of, behind, allowed(k), lastSent(k), nextRun(k, now), standbyState(k))
	}
}

func standbyDetail(w io.Writer, k standbyRow, now time.Time) {
	row(w, "machine", k.Machine)
	row(w, "disk", k.Disk)
	if k.SizeBytes > 0 {
		row(w, "size", size(k.SizeBytes))
	}
	row(w, "target", k.Target)
	point := "none yet"
	if k.Point != "" {
		point = fmt.Sprintf("%s of %s, %s behind the newest", k.Point, stamp(k.Time), seconds(k.BehindSeconds))
	}
	row(w, "at point", point)
	row(w, "allowed", allowed(k))
	sent := lastSent(k)
	if k.LastBytes != nil {
		sent += ", " + stamp(k.LastTime)
	}
	row(w, "last sent", sent)
	row(w, "sent", fmt.Sprintf("%s, %s read to compare, since control started", size(k.SentBytes), size(k.LookedBytes)))
	row(w, "next", nextRun(k, now))
	row(w, "state", standbyState(k))
}

func allowed(k standbyRow) string {
	if k.LimitSeconds == 0 {
		return "not wanted any more"
	}
	return seconds(k.LimitSeconds) + " behind"
}

// lastSent is the last difference. What an earlier control sent is not known.
func lastSent(k standbyRow) string {
	if k.LastBytes == nil {
		return "not known yet"
	}
	return size(*k.LastBytes)
}

// nextRun is when a copy is brought on: then, or with the first point after it.
func nextRun(k standbyRow, now time.Time) string {
	switch {
	case k.Going != "":
		return "now"
	case k.Held != "":
		return "after run " + k.Held
	case k.Next.IsZero():
		return ""
	case !k.Next.After(now):
		return "with the next look"
	}
	return "in " + span(k.Next.Sub(now))
}

func standbyState(k standbyRow) string {
	switch {
	case k.Error != "":
		return "not brought on: " + k.Error
	case k.Held != "":
		return "a machine is made of it"
	case k.Going != "":
		return "on its way to point " + k.Going
	case k.Point == "":
		return "waits"
	}
	return "kept"
}
