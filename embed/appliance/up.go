package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
	"go.uber.org/dig"
	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/control/console"
	"github.com/leeward-dr/leeward/embed"
)

// garbage is how much garbage there may be, in percent of what is in use, until it is
// collected. Every byte of a disk passes through several buffers of NATS; with Go's 100
// a copy of 256 MiB of noise took 457 and 470 MiB, so it took 346 to 375, and some percent of
// the processor more. GOGC overrides it.
const garbage = 50

// Command is `leeward up`. keeper is the command that keeps machines, see
// failover.Keeper; without it they end with the appliance.
func Command(version string, keeper ...string) *cobra.Command {
	c := Default()
	c.Keeper = keeper
	cmd := &cobra.Command{
		Use: "up", Short: "Run an appliance: NATS, process server and control in one process",
		Long: "Run an appliance from one directory: NATS, process server, control, and a vault.\n\n" +
			"Settings come from flags, then LEEWARD_* variables, then DIR/leeward.yaml, whose keys are the flags'\n" +
			"names with '_' for '-'. Ctrl-C or SIGTERM stops it cleanly; it may be killed at any moment too.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.Usage("leeward up --help", "leeward up does not know what to do with %q", args[0])
			}
			return nil
		},
	}
	take := c.take(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := take(); err != nil {
			return err
		}
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(garbage)
		}
		return Run(cmd.Context(), c, version, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// Run runs an appliance until ctx ends, then stops it. It says on out where it is
// and how to use it, and logs to logs.
func Run(ctx context.Context, c Config, version string, out, logs io.Writer) (err error) {
	if err := c.fill(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("make the appliance's directory: %w", err)
	}
	log := logger(c, logs)
	var o opened
	var s *embed.Server
	var v *vault.Vault
	var m *console.Server
	app := fx.New(options(c, version, log, &o), fx.Populate(&s, &v, &m))
	if err := app.Err(); err != nil {
		return errors.Join(dig.RootCause(err), o.undo())
	}
	if err := start(ctx, app); err != nil {
		return err
	}
	summary(out, c, s, v, m)
	select {
	case <-ctx.Done():
	case sig := <-app.Wait():
		// fx listens for SIGINT and SIGTERM too and may hear them first: code 0.
		if sig.ExitCode != 0 {
			log.Error("a part of the appliance ended", slog.Int("code", sig.ExitCode))
			err = errors.New("a part of the appliance ended; its log says why")
		}
	}
	fmt.Fprintln(out, "stopping…")
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	return errors.Join(err, app.Stop(sctx))
}

// start starts the application. A start that fails stops what was started.
func start(ctx context.Context, app *fx.App) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return app.Start(ctx)
}

func summary(w io.Writer, c Config, s *embed.Server, v *vault.Vault, m *console.Server) {
	manage := "none; --manage ADDRESS opens one for the console, enrolment, health and metrics"
	if m != nil {
		manage = m.URL()
	}
	if pin, err := s.CAPin(); err == nil && pin != "" {
		manage += "\n  ca pin    " + pin
	}
	look := "leeward status --dir " + c.Dir
	if m != nil {
		look += "\n  browse    leeward console login --dir " + c.Dir
	}
	fmt.Fprintf(w, `leeward is up in %s
  bus       %s
  manage    %s
  vault     %s (%s)
  key       %s
            keep a copy of it elsewhere: without it nobody can read the vault
  protect   leeward-agent run --context %s --disk /dev/sdX
  look      %s
Ctrl-C stops it cleanly.
`, c.Dir, s.ClientURL(), manage, v.Store().URL(), v.ID(), c.KeyFile, s.ContextFile(embed.Agent), look)
}
