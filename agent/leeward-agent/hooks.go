package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/agent/hooks"
)

// hookFlags are the options about applications, the same for run and hooks test.
type hookFlags struct{ hooks []string }

func (h *hookFlags) add(s *pflag.FlagSet, c *agent.AppConfig) {
	s.StringArrayVar(&h.hooks, "hook", nil, "program to run before and after application-consistent points, as `[USER@]NAME|/PATH`; names: "+strings.Join(hooks.Builtins(), ", ")+"; may be repeated")
	s.DurationVar(&c.PreTimeout, "hook-pre-timeout", c.PreTimeout, "longest time of a hook before the cut")
	s.DurationVar(&c.PostTimeout, "hook-post-timeout", c.PostTimeout, "longest time of a hook after the cut")
	s.DurationVar(&c.Hold, "hook-hold", c.Hold, "longest time that applications are held ready for a cut")
}

func (h *hookFlags) parse(c *agent.AppConfig) error {
	for _, arg := range h.hooks {
		k, err := hooks.Parse(arg)
		if err != nil {
			return err
		}
		c.Hooks = append(c.Hooks, k)
	}
	return nil
}

func hooksCommand() *cobra.Command {
	c := &cobra.Command{Use: "hooks", Short: "Look at what is told to applications before and after a point", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(&cobra.Command{
		Use: "ls", Short: "List the hooks that come with the agent", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Println(strings.Join(hooks.Builtins(), "\n")) },
	}, &cobra.Command{
		Use: "show NAME", Short: "Print a hook, to read it or to make one of your own", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := hooks.Script(args[0])
			if err != nil {
				return usage{err}
			}
			fmt.Print("#!/bin/sh\n" + text)
			return nil
		},
	}, hooksTestCommand())
	return c
}

func hooksTestCommand() *cobra.Command {
	var h hookFlags
	cfg := agent.Default()
	c := &cobra.Command{
		Use: "test --hook [USER@]NAME …", Short: "Run the hooks once, before and after, without a cut", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := h.parse(&cfg.Apps); err != nil {
				return usage{err}
			}
			if len(cfg.Apps.Hooks) == 0 {
				return usage{errors.New("no hook: name at least one with --hook")}
			}
			dir, err := os.MkdirTemp("", "leeward-hooks-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			if err := os.Chmod(dir, 0o711); err != nil { // a hook's user must get at its own directory
				return err
			}
			began := time.Now()
			s, err := hooks.Begin(c.Context(), hooks.Options{Hooks: cfg.Apps.Hooks, Machine: hostname(), Dir: dir,
				PreTimeout: cfg.Apps.PreTimeout, PostTimeout: cfg.Apps.PostTimeout, Hold: cfg.Apps.Hold})
			if err != nil {
				return err
			}
			ready := time.Now()
			if err := s.End(); err != nil {
				return err
			}
			fmt.Printf("ready after %v, gone on after another %v\n", ready.Sub(began).Round(time.Millisecond), time.Since(ready).Round(time.Millisecond))
			return nil
		},
	}
	h.add(c.Flags(), &cfg.Apps)
	return c
}
