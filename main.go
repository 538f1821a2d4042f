// Command leeward is the server and the operator's tool: `leeward up` runs an
// appliance, everything else looks at one, or at a vault alone.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/embed/appliance"
)

// Version is set by the linker in released builds, with a leading v.
var Version string

func main() { os.Exit(run()) }

// run exists so that deferred calls run before the process exits. A second signal
// ends the process at once.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	v := cli.ThisVersion(Version)
	return cli.Main(ctx, cli.Options{
		Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv,
		Version: v, Roles: []*cobra.Command{
			appliance.Command(v.Version, keeper()...), appliance.ConfigCommand(), processCommand(), controlCommand(v.Version), natsCommand(), keepCommand(),
		},
	})
}
