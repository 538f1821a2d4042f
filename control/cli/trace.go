package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
)

func (a *app) traceCommand() *cobra.Command {
	return &cobra.Command{
		Use: "trace POINT", Short: "Show where the time of a recovery point went, from its cut until it was listed", Args: args("POINT"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			t, err := c.Trace(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { traceTable(w, t) })
		}),
	}
}

func traceTable(w io.Writer, t *api.Trace) {
	fmt.Fprintf(w, "point %s of group %s, cut %s, listed after %s, trace %s\n", t.Point, t.Group, stamp(t.Time), seconds(t.TotalSeconds), t.TraceID)
	row(w, "SPAN", "DISK", "BEGINS", "TAKES")
	for _, s := range t.Spans {
		where := s.Machine
		if s.Disk != "" {
			where += "/" + s.Disk
		}
		row(w, s.Name, where, "+"+span(max(s.Start.Sub(t.Time), 0).Round(time.Millisecond)), span(time.Duration(s.Seconds*float64(time.Second))))
	}
	flush(w)
	for _, m := range t.Missing {
		fmt.Fprintln(w, m)
	}
}
