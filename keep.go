package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/target/fixup"
)

const keepName = "keep-machine"

// keeper is the command by which this program keeps a machine; nil where a program
// cannot know where it is.
func keeper() []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	return []string{self, keepName}
}

// fixCommand is the program of the helper that looks into the disks of a machine that is
// failed over: the first process of a virtual machine. It is not for people.
func fixCommand() *cobra.Command {
	return &cobra.Command{
		Use: failover.FixMachine, Hidden: true, Args: cobra.NoArgs, Short: "Fix a machine's disks, alone in a virtual machine",
		RunE: func(*cobra.Command, []string) error { return fixup.Main() },
	}
}

// keepCommand is what control starts for every machine that it brings up. It is not for
// people.
func keepCommand() *cobra.Command {
	return &cobra.Command{
		Use: keepName + " DIR", Hidden: true, Args: cobra.ExactArgs(1),
		Short: "Keep a machine that control brought up, beyond the life of control",
		RunE: func(cmd *cobra.Command, args []string) error {
			log := slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			return failover.KeepMachine(cmd.Context(), args[0], cmd.InOrStdin(), log)
		},
	}
}
