package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/failover"
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
