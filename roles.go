package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/dig"
	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/consumers"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/embed"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// The roles of a site that is more than one appliance: NATS nodes, process servers
// and controls, each on hosts of their own.

const (
	roleStart = 2 * time.Minute
	roleStop  = time.Minute
	// askAgain is how often a control that waits looks whether it is its turn.
	askAgain = 2 * time.Second
)

// roleFlags are what a process server and a control need.
type roleFlags struct {
	connect  bus.Options
	dir      string
	vault    string
	key      string
	replicas int
	changes  int64
	level    string
	memory   int64
	rpo      time.Duration
}

func (f *roleFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.vault, "vault", "", "the vault's store, made by leeward vault init")
	s.StringVar(&f.key, "key-file", "", "file with the vault's key (default: DIR/keys/vault.key)")
	s.IntVar(&f.replicas, "replicas", 0, "copies of each stream: 1, 3 or 5 (default: 3 in a cluster, else 1); never made less")
	s.Int64Var(&f.changes, "changes-bytes", streams.Default().ChangesBytes, "bytes the bus may hold until the vault has them")
	s.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	c.Args = cobra.NoArgs
}

// fill takes what is shared by all commands and checks what it can.
func (f *roleFlags) fill(c *cobra.Command, name string) (err error) {
	for flag, to := range map[string]*string{"dir": &f.dir, "server": &f.connect.URL, "context": &f.connect.Context} {
		if *to, err = c.Flags().GetString(flag); err != nil {
			return err
		}
	}
	if f.connect.Context == "" {
		f.connect.Context = filepath.Join(f.dir, "contexts", "operator.json")
	}
	if f.key == "" {
		f.key = filepath.Join(f.dir, "keys", "vault.key")
	}
	if f.vault == "" {
		return cli.Usage(c.CommandPath()+" --help", "--vault is missing: name the store that leeward vault init has made")
	}
	host, _ := os.Hostname()
	f.connect.Name = "leeward " + name + " on " + host
	return nil
}

func (f *roleFlags) log(w io.Writer) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(f.level)); err != nil {
		return nil, cli.Usage("", "--log-level is %q: use debug, info, warn or error", f.level)
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), nil
}

// open connects, sees to the streams and unlocks the vault. The bus may be coming
// up at the same time, so all of it is tried for a while.
func (f *roleFlags) open(ctx context.Context, log *slog.Logger) (b *bus.Bus, v *vault.Vault, err error) {
	ctx, cancel := context.WithTimeout(ctx, roleStart)
	defer cancel()
	key, err := vault.KeyFromFile(f.key)
	if err != nil {
		return nil, nil, err
	}
	st, err := vault.OpenStore(f.vault, false)
	if err != nil {
		return nil, nil, err
	}
	if v, err = vault.Unlock(ctx, st, key); err != nil {
		return nil, nil, err
	}
	f.connect.Log = log
	for {
		if b, err = bus.Connect(ctx, f.connect); err == nil {
			if err = f.ensure(ctx, b); err == nil {
				return b, v, nil
			}
			b.Close()
		}
		if ctx.Err() != nil || !errors.Is(err, bus.ErrUnreachable) && !streams.Retryable(err) {
			return nil, nil, err
		}
		log.Warn("the bus is not ready, trying again", "err", err)
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
		}
	}
}

func (f *roleFlags) ensure(ctx context.Context, b *bus.Bus) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c := streams.Config{Replicas: f.replicas, ChangesBytes: f.changes}
	if c.Replicas == 0 {
		if c.Replicas = 1; b.Conn.ConnectedClusterName() != "" {
			c.Replicas = 3
		}
	}
	return streams.Ensure(ctx, b.JS, c)
}

func processCommand() *cobra.Command {
	var f roleFlags
	c := &cobra.Command{
		Use: "process", Short: "Run a process server: it brings changes from the bus into the vault",
		Long: "Run a process server. Run as many as you like on as many hosts: they share the disks between\n" +
			"them, and when one comes, stops or dies the others notice within seconds.",
	}
	f.add(c)
	c.Flags().Int64Var(&f.memory, "memory-bytes", consumers.Default().MemoryBytes, "bytes of changes that may wait for the vault in memory")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.fill(cmd, "process"); err != nil {
			return err
		}
		log, err := f.log(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		b, v, err := f.open(cmd.Context(), log)
		if err != nil {
			return err
		}
		defer b.Close()
		cfg := consumers.Default()
		cfg.MemoryBytes = f.memory
		app := fx.New(fx.NopLogger, fx.StartTimeout(roleStart), fx.StopTimeout(roleStop), fx.Supply(b, v, cfg, log), consumers.Module)
		fmt.Fprintf(cmd.OutOrStdout(), "process server is up\n  bus       %s\n  vault     %s (%s)\n", b.Conn.ConnectedUrlRedacted(), v.Store().URL(), v.ID())
		return runApp(cmd.Context(), app, nil)
	}
	return c
}

// controlRole is the role of which the active control has the lease.
const controlRole = "control"

func controlCommand(version string) *cobra.Command {
	var f roleFlags
	c := &cobra.Command{
		Use: "control", Short: "Run a control: it makes recovery points, watches health and brings machines up",
		Long: "Run a control. Run it on two or three hosts: one is active, the others wait and take over when it\n" +
			"stops or dies.",
	}
	f.add(c)
	c.Flags().DurationVar(&f.rpo, "rpo-threshold", 5*time.Minute, "RPO beyond which health warns; beyond 4 times it is critical")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.fill(cmd, "control"); err != nil {
			return err
		}
		log, err := f.log(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		if err := os.MkdirAll(f.dir, 0o700); err != nil {
			return fmt.Errorf("make the directory of jobs: %w", err)
		}
		b, v, err := f.open(cmd.Context(), log)
		if err != nil {
			return err
		}
		defer b.Close()
		cfg := control.Default()
		cfg.Dir, cfg.Version, cfg.Health.RPO = f.dir, version, f.rpo
		cfg.Keeper = failover.Keeper{Command: keeper(), Vault: f.vault, KeyFile: f.key}
		fmt.Fprintf(cmd.OutOrStdout(), "control is up, waiting for its turn\n  bus       %s\n  vault     %s (%s)\n", b.Conn.ConnectedUrlRedacted(), v.Store().URL(), v.ID())
		return turns(cmd.Context(), b, log, func() *fx.App {
			return fx.New(fx.NopLogger, fx.StartTimeout(roleStart), fx.StopTimeout(roleStop), fx.Supply(b, v, cfg, log), control.Module)
		}, cmd.OutOrStdout())
	}
	return c
}

// turns runs what make makes whenever this process has the lease of control, until
// ctx ends.
func turns(ctx context.Context, b *bus.Bus, log *slog.Logger, make func() *fx.App, out io.Writer) error {
	h := bus.ThisProcess(fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()))
	for {
		h.Since = time.Now().UTC()
		actx, cancel := context.WithTimeout(ctx, askAgain*3)
		l, err := bus.AcquireRole(actx, b.JS, controlRole, h, bus.LeaseOptions{Log: log})
		cancel()
		if err == nil {
			fmt.Fprintln(out, "control is active")
			err = runApp(ctx, make(), l.Lost())
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askAgain*3)
			err = errors.Join(err, l.Release(rctx))
			cancel()
			if ctx.Err() != nil || err != nil {
				return err
			}
			log.Warn("another control is active now, or nobody could be asked; waiting for the next turn")
		} else if !errors.Is(err, bus.ErrHeld) && ctx.Err() == nil {
			log.Warn("cannot ask whose turn it is, trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(askAgain):
		}
	}
}

// runApp runs an application until ctx or until ends, then stops it.
func runApp(ctx context.Context, app *fx.App, until <-chan struct{}) (err error) {
	if err := app.Err(); err != nil {
		return dig.RootCause(err)
	}
	sctx, cancel := context.WithTimeout(ctx, roleStart)
	defer cancel()
	if err := app.Start(sctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-until:
	case sig := <-app.Wait():
		if sig.ExitCode != 0 {
			err = errors.New("a part of the role ended; its log says why")
		}
	}
	tctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), roleStop)
	defer cancel()
	return errors.Join(err, app.Stop(tctx))
}

func natsCommand() *cobra.Command {
	c := &cobra.Command{Use: "nats", Short: "Run a node of a NATS cluster, or prepare one"}
	var file, level string
	run := &cobra.Command{
		Use: "run", Short: "Run a NATS node from its configuration file (deploy/nats/node.conf)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := (&roleFlags{level: level}).log(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return embed.RunNode(cmd.Context(), file, log)
		},
	}
	run.Flags().StringVar(&file, "config", "node.conf", "the node's configuration `file`")
	run.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	var urls, ca string
	prepare := &cobra.Command{
		Use: "init", Short: "Write keys, contexts and accounts.conf of a cluster into --dir", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := cmd.Flags().GetString("dir")
			if err != nil {
				return err
			}
			if urls == "" {
				return cli.Usage("leeward nats init --help", "--urls is missing: name where the nodes listen")
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("make the cluster's directory: %w", err)
			}
			if ca != "" {
				if ca, err = filepath.Abs(ca); err != nil {
					return err
				}
			}
			if dir, err = filepath.Abs(dir); err != nil {
				return err
			}
			return embed.WriteCluster(dir, urls, ca)
		},
	}
	prepare.Flags().StringVar(&urls, "urls", "", "where the nodes listen, with commas, e.g. tls://n1:4222,tls://n2:4222,tls://n3:4222")
	prepare.Flags().StringVar(&ca, "ca", "", "PEM `file` of the authority that signed the nodes' certificates")
	c.AddCommand(run, prepare)
	return c
}
