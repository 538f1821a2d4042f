package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
)

func (a *app) groupCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List the groups of machines", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Groups(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.groups.v1", all), func(w io.Writer) {
				if len(all) == 0 {
					fmt.Fprintln(w, "no group: every machine cuts its points alone (leeward group create NAME MACHINE…)")
					return
				}
				row(w, "GROUP", "MACHINES", "POLICY", "LATEST COMMON POINT", "AGE", "SKEW", "FROZEN", "TROUBLE")
				for _, g := range all {
					latest, age := "", ""
					if g.LatestPoint != nil {
						latest, age = g.LatestPoint.ID, seconds(*g.Age)
					}
					row(w, g.Group, len(g.Members), g.Policy, latest, age, millis(g.SkewSeconds), millis(g.FrozenSeconds), g.Trouble)
				}
			})
		}),
	}
	show := &cobra.Command{
		Use: "show GROUP", Short: "Show a group", Args: args("GROUP"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			g, err := c.Group(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showGroup(g)
		}),
	}
	create := &cobra.Command{
		Use: "create GROUP [MACHINE…]", Short: "Make a group of machines that cut their points together", Args: some("GROUP"),
		RunE: a.changeGroup(func(names []string) api.GroupChange { return api.GroupChange{Create: true, Add: names} }),
	}
	add := &cobra.Command{
		Use: "add GROUP MACHINE…", Short: "Let machines join a group, from its next point on", Args: some("GROUP", "MACHINE"),
		RunE: a.changeGroup(func(names []string) api.GroupChange { return api.GroupChange{Add: names} }),
	}
	remove := &cobra.Command{
		Use: "remove GROUP MACHINE…", Short: "Let machines leave a group, from its next point on", Args: some("GROUP", "MACHINE"),
		RunE: a.changeGroup(func(names []string) api.GroupChange { return api.GroupChange{Remove: names} }),
	}
	del := &cobra.Command{
		Use: "delete GROUP", Short: "Dissolve a group; its points stay", Args: args("GROUP"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error { return c.DeleteGroup(ctx, args[0]) }),
	}
	a.watched(ls, show)
	a.careful(del, func(g string) string { return "dissolve group " + g + ": its machines cut their points alone again" })
	return noun("group", "Machines that cut their points together", ls, show, create, add, remove, del)
}

func (a *app) changeGroup(change func(names []string) api.GroupChange) func(*cobra.Command, []string) error {
	return a.with(func(ctx context.Context, c *api.Client, args []string) error {
		r := change(args[1:])
		r.Group = args[0]
		g, err := c.ChangeGroup(ctx, r)
		if err != nil {
			return err
		}
		return a.showGroup(g)
	})
}

func (a *app) showGroup(g *api.Group) error {
	return a.print(g, func(w io.Writer) {
		row(w, "group", g.Group)
		row(w, "machines", strings.Join(g.Members, " "))
		row(w, "policy", g.Policy)
		row(w, "changed", stamp(g.Changed)+" by "+g.By)
		if p := g.LatestPoint; p != nil {
			row(w, "latest point", fmt.Sprintf("%s, %s-consistent, of %d machines, %s ago", p.ID, p.Consistency, g.LatestMembers, seconds(*g.Age)))
			row(w, "frozen", millis(g.FrozenSeconds))
			row(w, "skew", millis(g.SkewSeconds))
		}
		if g.Trouble != "" {
			row(w, "trouble", fmt.Sprintf("%s (%d in a row)", g.Trouble, g.Failed))
		}
	})
}

func millis(s float64) string { return fmt.Sprintf("%.1f ms", s*1000) }

// some wants at least the named arguments; the last may be many.
func some(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if len(got) < len(names) {
			return Usage(c.CommandPath()+" --help", "%s needs %s", c.CommandPath(), names[len(got)])
		}
		return nil
	}
}

func (a *app) pinCommands() []*cobra.Command {
	pin := func(ctx context.Context, c *api.Client, id, name string) error {
		p, err := c.Pin(ctx, id, name)
		if err != nil {
			return err
		}
		return a.print(p, func(w io.Writer) { fmt.Fprintf(w, "point %s is kept until: leeward point unpin %s\n", p.ID, p.ID) })
	}
	return []*cobra.Command{
		{
			Use: "pin POINT", Short: "Keep a point whatever the retention says", Args: args("POINT"),
			RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error { return pin(ctx, c, args[0], "") }),
		},
		{
			Use: "name POINT NAME", Short: "Give a point a name that --point understands, and keep it", Args: args("POINT", "NAME"),
			RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error { return pin(ctx, c, args[0], args[1]) }),
		},
		{
			Use: "unpin POINT", Short: "Let a point go by the retention again", Args: args("POINT"),
			RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
				p, err := c.Unpin(ctx, args[0])
				if err != nil {
					return err
				}
				return a.print(p, func(w io.Writer) { fmt.Fprintf(w, "point %s goes when the retention says so\n", p.ID) })
			}),
		},
	}
}

func (a *app) auditCommand() *cobra.Command {
	var when, action string
	var limit int
	ls := &cobra.Command{
		Use: "ls", Short: "List who changed what, the oldest first", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			from, err := since(when)
			if err != nil {
				return err
			}
			all, err := c.Records(ctx, api.Query{Since: from, Kind: action, Limit: limit})
			if err != nil {
				return err
			}
			return a.print(items("leeward.audit.v1", all), func(w io.Writer) {
				row(w, "TIME", "WHO", "ACTION", "OBJECT", "RESULT")
				for _, r := range all {
					result := "ok"
					if r.Error != "" {
						result = r.Error
					}
					row(w, stamp(r.Time), r.Actor, r.Action, r.Object, result)
				}
			})
		}),
	}
	ls.Flags().StringVar(&when, "since", "", "only actions at or after an RFC 3339 time, or younger than a duration like 2h")
	ls.Flags().StringVar(&action, "action", "", "only this action, e.g. policy-apply")
	ls.Flags().IntVar(&limit, "limit", 0, "only the newest so many (0: all)")
	return noun("audit", "Who changed what", ls)
}
