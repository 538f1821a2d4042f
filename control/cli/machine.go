package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
)

func (a *app) machineCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List the protected machines", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Machines(ctx, api.Query{})
			if err != nil {
				return err
			}
			return a.print(items("leeward.machines.v1", all), func(w io.Writer) {
				if len(all) == 0 {
					fmt.Fprintln(w, "no machine is protected yet: run leeward-agent on one")
					return
				}
				machineTable(w, all)
			})
		}),
	}
	show := &cobra.Command{
		Use: "show MACHINE", Short: "Show what is known of a machine and its disks", Args: args("MACHINE"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			m, err := c.Machine(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(m, func(w io.Writer) { machineDetail(w, m) })
		}),
	}
	a.watched(ls, show)
	return noun("machine", "Protected machines", append([]*cobra.Command{ls, show}, a.protectionCommands()...)...)
}

func machineTable(w io.Writer, all []api.Machine) {
	row(w, "MACHINE", "HEALTH", "RPO", "POINTS", "LATEST", "AGENT", "DISKS", "LAST TEST")
	for _, m := range all {
		rpo, latest, test, total := "", "", "", uint64(0)
		if m.RPO != nil {
			rpo = seconds(*m.RPO)
			latest = stamp(m.LatestPoint.Time) + " " + m.LatestPoint.Consistency
		}
		if t := m.LastTest; t != nil {
			test = fmt.Sprintf("%s %s", verdict(t), ago(t.Time))
		}
		if m.TestRecommended {
			test = strings.TrimPrefix(test+", recommended", ", ")
		}
		for _, d := range m.Disks {
			total += d.SizeBytes
		}
		row(w, m.Machine, m.Health, rpo, m.Points, latest, agent(m.Disks), fmt.Sprintf("%d (%s)", len(m.Disks), size(total)), test)
	}
}

func verdict(t *api.TestRef) string {
	if t.Alive {
		return "alive"
	}
	return string(t.State)
}

func agent(all []api.Disk) string {
	n := 0
	for _, d := range all {
		if d.Held {
			n++
		}
	}
	switch n {
	case 0:
		return "offline"
	case len(all):
		return "online"
	}
	return fmt.Sprintf("%d of %d disks", n, len(all))
}

func machineDetail(w io.Writer, m *api.Machine) {
	row(w, "machine", m.Machine)
	row(w, "host", m.Host)
	row(w, "system", m.OS+" "+m.Kernel)
	row(w, "hardware", fmt.Sprintf("%d CPUs, %s, %s", m.CPUs, size(m.MemoryBytes), m.Firmware))
	for _, n := range m.NICs {
		row(w, "network", n)
	}
	row(w, "health", m.Health)
	if m.Life != nil {
		row(w, "life", fmt.Sprintf("%s, %s", m.Life.Phase, ago(m.Life.Since)))
	}
	if m.RPO != nil {
		row(w, "rpo", seconds(*m.RPO))
		row(w, "latest point", fmt.Sprintf("%s of %s, %s-consistent", m.LatestPoint.ID, stamp(m.LatestPoint.Time), m.LatestPoint.Consistency))
	}
	row(w, "points", fmt.Sprintf("%d listed, %d on their way", m.Points, m.PendingMarkers))
	if t := m.LastTest; t != nil {
		row(w, "last test", fmt.Sprintf("%s, job %s, %s", verdict(t), t.Job, ago(t.Time)))
	}
	if m.TestRecommended {
		row(w, "recommended", "a test: none succeeded in 30 days (leeward failover test "+m.Machine+", or leeward drill set)")
	}
	if a := m.Agent; a != nil {
		rate := "no bound"
		if a.RateBytes > 0 {
			rate = fmt.Sprintf("%s a second, waited %s for it", size(uint64(a.RateBytes)), seconds(a.WaitedSeconds))
		}
		row(w, "sends", fmt.Sprintf("%s since %s; %s", size(a.SentBytes), stamp(a.Since), rate))
	}
	flush(w)
	fmt.Fprintln(w)
	row(w, "DISK", "SIZE", "PATH", "CAPTURE", "VAULT HOLDS", "LAST PROGRESS", "BACKLOG", "AGENT")
	for _, d := range m.Disks {
		backlog := ""
		if d.BacklogMessages != nil {
			backlog = fmt.Sprintf("%d messages", *d.BacklogMessages)
		}
		if d.WaitingBytes != nil {
			backlog += ", " + size(*d.WaitingBytes) + " unsent"
		}
		row(w, d.Disk, size(d.SizeBytes), d.Path, d.Capture, fmt.Sprintf("epoch %d, %d", d.Epoch, d.Number), ago(d.LastReceipt), backlog, agent([]api.Disk{d}))
	}
	flush(w)
	for _, k := range m.Standby {
		how := "is not there yet"
		if k.Point != "" {
			how = fmt.Sprintf("is at point %s of %s, %s behind", k.Point, stamp(k.Time), seconds(k.BehindSeconds))
		}
		fmt.Fprintf(w, "%s: its standby disk in Azure %s (%s sent)\n", k.Disk, how, size(uint64(k.SentBytes)))
		if k.Error != "" {
			fmt.Fprintf(w, "%s: its standby disk in Azure is not brought on: %s\n", k.Disk, k.Error)
		}
	}
	for _, d := range m.Disks {
		if d.Guarantee != "" {
			fmt.Fprintf(w, "%s: %s\n", d.Disk, d.Guarantee)
		}
		if d.Note != "" {
			fmt.Fprintf(w, "%s: in the latest point: %s\n", d.Disk, d.Note)
		}
		if d.Resend != "" {
			fmt.Fprintf(w, "%s: the vault asked for changes again: %s\n", d.Disk, d.Resend)
		}
	}
	for _, i := range m.Issues {
		fmt.Fprintf(w, "%s: %s\n", i.Level, i.Cause)
		if i.Remedy != "" {
			fmt.Fprintf(w, "  try: %s\n", i.Remedy)
		}
	}
}
