// Command leeward is the server and the operator's tool: `leeward up` runs an
// appliance, everything else looks at one, or at a vault alone.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
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
	frugal(os.Args[1:])
	return cli.Main(ctx, programOptions(os.Args[1:], os.Getenv))
}

// programOptions are those of this program: its streams, its version and its roles.
func programOptions(args []string, getenv func(string) string) cli.Options {
	v := cli.ThisVersion(Version)
	return cli.Options{
		Args: args, In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: getenv,
		Version: v, Roles: []*cobra.Command{
			appliance.Command(v.Version, keeper()...), appliance.ConfigCommand(), processCommand(), controlCommand(v.Version), natsCommand(), keepCommand(), fixCommand(),
		},
	}
}

// frugal makes the roles that move data collect garbage twice as often, unless somebody
// has said what they shall do. Nearly all they hold is buffers, in which there is nothing
// to look through: it costs little and saves a fifth of their memory. No program of ours
// keeps a memory profile.
func frugal(args []string) {
	if len(args) > 0 && (args[0] == "up" || args[0] == "process") && os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(50)
	}
	// What the memory profile costs is one part in fifty of moving a disk: each message is
	// large enough to be a sample. Nothing here shows that profile.
	runtime.MemProfileRate = 0
}
