package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/agent/hooks"
	"github.com/leeward-dr/leeward/agent/quiesce"
)

// Exit codes, the same as those of leeward.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "guard" {
		os.Exit(quiesce.GuardMain())
	}
	if len(os.Args) == 2 && os.Args[1] == "hook-keeper" {
		os.Exit(hooks.KeeperMain())
	}
	root := rootCommand()
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "leeward-agent:", err)
		os.Exit(exitCode(err))
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "leeward-agent",
		Short: "Replicates the disks of this machine to a Leeward vault",
		Args:  cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.AddCommand(runCommand(), driversCommand(), hooksCommand(), statusCommand(), forgetCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Println("leeward-agent", version()) },
	})
	root.AddCommand(enrolCommand(), rescueCommand())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage{err} })
	root.AddCommand(profileCommand())
	return root
}

// usage marks an error of the command line.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

// Version is set by the build; without it the module's own version is printed.
var Version string

func version() string {
	if Version != "" {
		return Version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
