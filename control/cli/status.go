package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
)

func (a *app) statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "One screen: health, RPO, backlog, last tests, issues", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error { return a.status(ctx, c) }),
	}
	a.watched(c)
	return c
}

// statusDocument is what -o json prints. Schema "leeward.status.v1".
type statusDocument struct {
	*api.Status
	List []api.Machine `json:"machine_list"`
}

func (a *app) status(ctx context.Context, c *api.Client) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	all := []api.Machine{}
	if st.Ready {
		if all, err = c.Machines(ctx, api.Query{}); err != nil {
			return err
		}
	}
	return a.print(statusDocument{Status: st, List: all}, func(w io.Writer) { statusTable(w, st, all) })
}

func statusTable(w io.Writer, st *api.Status, all []api.Machine) {
	health := string(st.Health)
	switch {
	case !st.Ready:
		health = "starting: reading the vault and the streams"
	case st.Machines == 0:
		health = "nothing is protected yet"
	}
	fmt.Fprintf(w, "leeward %s   %s   %s\n", st.Version, health, stamp(st.Time))
	row(w, "vault", st.Vault.URL)
	row(w, "points", fmt.Sprintf("%d listed, %d on their way", st.Points, st.PendingMarkers))
	row(w, "backlog", fmt.Sprintf("%s in %d messages on the bus, %s still on the machines", size(st.BacklogBytes), st.BacklogMessages, size(st.WaitingBytes)))
	row(w, "jobs", fmt.Sprintf("%d running, %d waiting for cleanup", st.JobsRunning, st.JobsWaiting))
	flush(w)
	if len(all) > 0 {
		fmt.Fprintln(w)
		machineTable(w, all)
		flush(w)
	} else if st.Ready {
		fmt.Fprintln(w, "\nprotect a disk: run leeward-agent on its machine")
	}
	if len(st.Issues) == 0 {
		return
	}
	fmt.Fprintln(w)
	for _, i := range st.Issues {
		where := i.Machine
		if i.Disk != "" {
			where += "/" + i.Disk
		}
		fmt.Fprintf(w, "%s: %s: %s (%s)\n", strings.ToUpper(string(i.Level)), where, i.Cause, i.Code)
		if i.Remedy != "" {
			fmt.Fprintf(w, "  try: %s\n", i.Remedy)
		}
	}
}

// flush ends a block of columns, so that the next one has its own widths.
func flush(w io.Writer) {
	if t, ok := w.(*tabwriter.Writer); ok {
		_ = t.Flush() // the last Flush reports the error
	}
}
