package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/enrol"
	"github.com/leeward-dr/leeward/streams/trust"
)

func (a *app) tokenCommand() *cobra.Command {
	var q api.NewToken
	var ttl time.Duration
	add := &cobra.Command{
		Use: "new --machine NAME", Short: "Make a one-time token that lets the agent of a machine in", Args: args(),
		Long: "Make a one-time token that lets the agent of a machine in. It is shown once, alone on standard output, so that\n" +
			"it can be sent to a file: leeward token new --machine web1 > web1.token",
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			if q.Machine == "" {
				return Usage("leeward token new --machine NAME", "the machine has no name")
			}
			q.TTLSeconds = ttl.Seconds()
			t, err := c.NewToken(ctx, q)
			if err != nil {
				return err
			}
			if a.output != "table" {
				return a.print(t, nil)
			}
			pin := ""
			if t.Pin != "" {
				pin = " --ca-pin " + t.Pin
			}
			a.note("good for machine %s until %s; on it run:\n  leeward-agent enrol --server https://THIS-HOST --token-file FILE%s", t.Machine, stamp(t.Expires), pin)
			_, err = fmt.Fprintln(a.Out, t.Text)
			return err
		}),
	}
	add.Flags().StringVar(&q.Machine, "machine", "", "name of the machine")
	add.Flags().StringArrayVar(&q.Groups, "group", nil, "consistency group that the machine may publish markers of, beside its own; may be repeated")
	add.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token is good, at most "+enrol.MaxTTL.String())
	ls := &cobra.Command{
		Use: "ls", Short: "List the tokens; what opens the door is not shown", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Tokens(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.tokens.v1", all), func(w io.Writer) { tokenTable(w, all) })
		}),
	}
	rm := &cobra.Command{
		Use: "rm ID", Short: "Make a token useless", Args: args("ID"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error { return c.RemoveToken(ctx, args[0]) }),
	}
	return noun("token", "One-time tokens for agents", add, ls, rm)
}

func tokenTable(w io.Writer, all []enrol.Token) {
	if len(all) == 0 {
		fmt.Fprintln(w, "no token: make one with leeward token new --machine NAME")
		return
	}
	row(w, "ID", "MACHINE", "GROUPS", "EXPIRES", "USED")
	for _, t := range all {
		used := "no"
		switch {
		case !t.Used.IsZero():
			used = stamp(t.Used)
		case time.Now().After(t.Expires):
			used = "expired"
		}
		row(w, t.ID, t.Machine, strings.Join(t.Groups, ","), stamp(t.Expires), used)
	}
}

func (a *app) agentCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List the agents that were let in", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Agents(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.agents.v1", all), func(w io.Writer) { agentTable(w, all) })
		}),
	}
	revoke := &cobra.Command{
		Use: "revoke MACHINE", Short: "End a machine's agent at once and refuse its key for good", Args: args("MACHINE"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			g, err := c.RevokeAgent(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(g, func(w io.Writer) {
				fmt.Fprintf(w, "the agent of %s is refused since %s; what it has sent stays in the vault\n", g.Machine, stamp(g.Revoked))
			})
		}),
	}
	a.careful(revoke, func(m string) string { return "end the agent of " + m + " and refuse its key for good" })
	return noun("agent", "Agents: on which hosts they are, and who was let in", append([]*cobra.Command{ls, revoke}, a.pushCommands()...)...)
}

func agentTable(w io.Writer, all []enrol.Agent) {
	if len(all) == 0 {
		fmt.Fprintln(w, "no agent was let in yet: leeward token new --machine NAME")
		return
	}
	row(w, "MACHINE", "STATE", "SINCE", "GROUPS", "KEY")
	for _, g := range all {
		state, since := "enrolled", g.Enrolled
		if !g.Revoked.IsZero() {
			state, since = "revoked", g.Revoked
		}
		row(w, g.Machine, state, stamp(since), strings.Join(g.Groups, ","), g.PublicKey)
	}
}

func (a *app) trustCommand() *cobra.Command {
	var store string
	config := &cobra.Command{
		Use: "config", Short: "Print the piece of nats-server.conf that makes servers of your own judge Leeward's users", Args: args(),
		Long: "Print the piece of nats-server.conf that makes servers of your own judge Leeward's users. The keys below\n" +
			"--dir/trust are made if they are missing. What is printed is no secret.",
		RunE: func(*cobra.Command, []string) error {
			t, err := trust.Open(filepath.Join(a.dir, "trust"))
			if err != nil {
				return err
			}
			text, err := t.ServerConfig(store)
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.Out, text)
			return err
		},
	}
	config.Flags().StringVar(&store, "store", "/var/lib/nats/accounts", "where each server keeps the accounts")
	return noun("trust", "Keys of users and accounts", config)
}
