package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
)

func (a *app) eventCommand() *cobra.Command {
	var q api.Query
	var from string
	ls := &cobra.Command{
		Use: "ls [MACHINE]", Short: "List what happened, the oldest first", Args: args("[MACHINE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if q.Since, err = since(from); err != nil {
				return err
			}
			return a.with(func(ctx context.Context, c *api.Client, args []string) error {
				if len(args) > 0 {
					q.Machine = args[0]
				}
				all, err := c.Events(ctx, q)
				if err != nil {
					return err
				}
				return a.print(items("leeward.events.v1", all), func(w io.Writer) { eventTable(w, all) })
			})(cmd, args)
		},
	}
	ls.Flags().StringVar(&from, "since", "", "only after an RFC 3339 time, or younger than a duration like 2h")
	ls.Flags().StringVar(&q.Kind, "kind", "", "only this kind, e.g. point or resync")
	ls.Flags().IntVar(&q.Limit, "limit", 100, "only the newest so many")
	a.watched(ls)
	return noun("event", "What happened", ls)
}

func eventTable(w io.Writer, all []api.Event) {
	if len(all) == 0 {
		fmt.Fprintln(w, "nothing has happened")
		return
	}
	row(w, "TIME", "SEVERITY", "MACHINE", "KIND", "WHAT")
	for _, e := range all {
		where := e.Machine
		if e.Disk != "" {
			where += "/" + e.Disk
		}
		row(w, stamp(e.Time), e.Severity, where, e.Kind, e.What)
	}
}
