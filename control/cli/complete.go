package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
)

// completeTime is how long a person who pressed Tab waits at most.
const completeTime = 2 * time.Second

// listers say what stands for an argument that a command names in capitals: the name,
// and after a tab what the shell may show beside it.
var listers = map[string]func(context.Context, *api.Client) ([]string, error){
	"MACHINE": func(ctx context.Context, c *api.Client) (names []string, err error) {
		all, err := c.Machines(ctx, api.Query{})
		for _, m := range all {
			names = append(names, m.Machine+"\t"+string(m.Health))
		}
		return names, err
	},
	"POINT": func(ctx context.Context, c *api.Client) (names []string, err error) {
		all, err := c.Points(ctx, api.Query{Limit: 200})
		for _, p := range all {
			names = append(names, p.ID+"\t"+stamp(p.Time)+" "+p.Group+" "+p.Consistency)
		}
		return names, err
	},
	"JOB": func(ctx context.Context, c *api.Client) (names []string, err error) {
		all, err := c.Jobs(ctx, api.Query{Limit: 50})
		for _, j := range all {
			names = append(names, j.ID+"\t"+string(j.State))
		}
		return names, err
	},
	"GROUP": func(ctx context.Context, c *api.Client) (names []string, err error) {
		all, err := c.Groups(ctx)
		for _, g := range all {
			names = append(names, g.Group)
		}
		return names, err
	},
	"PLAN": func(ctx context.Context, c *api.Client) (names []string, err error) {
		all, err := c.Plans(ctx)
		for _, p := range all {
			names = append(names, p.Name)
		}
		return names, err
	},
	"POLICY": func(ctx context.Context, c *api.Client) (names []string, err error) {
		all, err := c.Policies(ctx)
		for _, p := range all {
			names = append(names, p.Name)
		}
		return names, err
	},
	"RUN": func(ctx context.Context, c *api.Client) (names []string, err error) {
		all, err := c.Runs(ctx)
		for _, r := range all {
			names = append(names, r.ID+"\t"+r.Plan)
		}
		return names, err
	},
}

// complete lets the shell offer live names: for arguments by what a command calls
// them, e.g. MACHINE or GROUP, and for --point and --machine.
func (a *app) complete(c *cobra.Command) {
	for _, sub := range c.Commands() {
		a.complete(sub)
	}
	words := strings.Fields(c.Use)[1:]
	if c.ValidArgsFunction == nil && len(words) > 0 && names(words[0]) != nil {
		c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			word := words[min(len(args), len(words)-1)]
			if len(args) >= len(words) && !strings.Contains(word, "…") {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.offer(c, names(word), args)
		}
	}
	for flag, what := range map[string]string{"point": "POINT", "machine": "MACHINE"} {
		if c.LocalNonPersistentFlags().Lookup(flag) == nil {
			continue
		}
		// It fails only for a flag that has one already.
		_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			all, d := a.offer(c, []string{what}, nil)
			if what == "POINT" {
				all = append([]string{failover.Latest, "latest-processed", "latest-app", "latest-multi", "latest-multi-app"}, all...)
			}
			return all, d
		})
	}
}

// names says which listers a word of a command's use stands for: [MACHINE|GROUP].
func names(word string) (known []string) {
	for _, n := range strings.Split(strings.Trim(word, "[]…"), "|") {
		if _, ok := listers[n]; ok {
			known = append(known, n)
		}
	}
	return known
}

// offer asks control for names, without those that were given. A shell has nowhere to
// show an error, so there is nothing to offer then.
func (a *app) offer(c *cobra.Command, what, given []string) (all []string, d cobra.ShellCompDirective) {
	d = cobra.ShellCompDirectiveNoFileComp
	if len(what) == 0 || FromEnv(c.Flags(), a.Getenv) != nil {
		return nil, d
	}
	ctx := c.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	client, done, err := a.connect(ctx)
	if err != nil {
		return nil, d
	}
	defer done()
	seen := map[string]bool{}
	for _, g := range given {
		seen[g] = true
	}
	for _, w := range what {
		found, err := listers[w](ctx, client)
		if err != nil {
			continue
		}
		for _, f := range found {
			if name, _, _ := strings.Cut(f, "\t"); !seen[name] {
				seen[name] = true
				all = append(all, f)
			}
		}
	}
	return all, d
}
