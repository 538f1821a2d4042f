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

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"go.uber.org/dig"
	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/consumers"
	"github.com/leeward-dr/leeward/consumers/process"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/control/console"
	"github.com/leeward-dr/leeward/control/enrol"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/embed/appliance"
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
	// tryTime is what one try has at least.
	tryTime = 30 * time.Second
	// sayAgain is how often the log says that something is still waited for.
	sayAgain = 30 * time.Second
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
	pools    []string // that control makes
	pool     string   // of a process server, or that control's machines write to
	standby  bool
}

func (f *roleFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.vault, "vault", "", "the vault's store, made by leeward vault init")
	s.StringVar(&f.key, "key-file", "", "file with the vault's key (default: DIR/keys/vault.key)")
	s.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	c.Args = cobra.NoArgs
}

// size adds the flags of those who make the streams.
func (f *roleFlags) size(c *cobra.Command) {
	s := c.Flags()
	s.IntVar(&f.replicas, "replicas", 0, "copies of each stream: 1, 3 or 5 (default: 3 in a cluster, else 1); never made less")
	s.Int64Var(&f.changes, "changes-bytes", streams.Default().ChangesBytes, "bytes the bus may hold until the vault has them")
}

// fill takes what is shared by all commands and checks what it can.
func (f *roleFlags) fill(c *cobra.Command, name string) (err error) {
	for flag, to := range map[string]*string{"dir": &f.dir, "server": &f.connect.URL, "context": &f.connect.Context} {
		if *to, err = c.Flags().GetString(flag); err != nil {
			return err
		}
	}
	if f.connect.Context == "" {
		f.connect.Context = filepath.Join(f.dir, "contexts", name+".json")
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

// open connects, has ensure see to the streams and unlocks the vault. The bus may be
// coming up at the same time, so all of it is tried for a while, patience; a bus that is
// there and slow, and streams that no control has made yet, are waited for as long as it takes.
func (f *roleFlags) open(ctx context.Context, log *slog.Logger, patience time.Duration, ensure func(context.Context, *bus.Bus) error) (b *bus.Bus, v *vault.Vault, err error) {
	key, err := vault.KeyFromFile(f.key)
	if err != nil {
		return nil, nil, err
	}
	st, err := vault.OpenStore(f.vault, false)
	if err != nil {
		return nil, nil, err
	}
	if v, err = unlock(ctx, st, key, patience); err != nil {
		return nil, nil, err
	}
	f.connect.Log = log
	var said time.Time
	for until := time.Now().Add(patience); ; {
		if b, err = f.try(ctx, until, ensure); err == nil {
			return b, v, nil
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		waits := errors.Is(err, errNoStreams)
		// The bus is there, and slow: a cluster that has just come up and makes dozens of
		// streams may be. Patience begins anew, for to end would only mean to begin again.
		if waits || !errors.Is(err, bus.ErrUnreachable) && streams.Retryable(err) {
			until = time.Now().Add(patience)
		} else if time.Now().After(until) || !errors.Is(err, bus.ErrUnreachable) {
			return nil, nil, err
		}
		if time.Since(said) > sayAgain {
			said = time.Now()
			if waits {
				log.Info("waiting for control", "why", err.Error())
			} else {
				log.Warn("the bus is not ready, trying again", "err", err)
			}
		}
		select {
		case <-time.After(min(askAgain, patience/4)):
		case <-ctx.Done():
		}
	}
}

func unlock(ctx context.Context, st store.Store, key vault.Key, patience time.Duration) (*vault.Vault, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return vault.Unlock(ctx, st, key)
}

// try connects once and sees to the streams.
func (f *roleFlags) try(ctx context.Context, until time.Time, ensure func(context.Context, *bus.Bus) error) (*bus.Bus, error) {
	ctx, cancel := context.WithTimeout(ctx, max(time.Until(until), tryTime))
	defer cancel()
	b, err := bus.Connect(ctx, f.connect)
	if err != nil {
		return nil, err
	}
	if err := ensure(ctx, b); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
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
	if err := streams.Ensure(ctx, b.JS, c); err != nil {
		return err
	}
	for _, text := range f.pools {
		p, err := streams.ParsePool(text, c)
		if err == nil {
			err = streams.EnsurePool(ctx, b.JS, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errNoStreams means that no control has made the streams yet.
var errNoStreams = errors.New("the streams are not there: control makes them, start leeward control")

// made makes sure that the streams are there. A process server may not make them.
func made(ctx context.Context, b *bus.Bus, p streams.Pool) error {
	for _, name := range []string{p.Stream(), streams.Receipts, streams.Events, "KV_" + streams.Shares, "KV_" + streams.Fences} {
		err := look(ctx, b, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%w (%s)", errNoStreams, name)
		}
		if err != nil {
			return fmt.Errorf("look at stream %s: %w", name, err)
		}
	}
	return nil
}

// lookTime is how long one look at a stream may take. A cluster that has no leader yet
// answers nothing, so waiting longer than it does in health only begins the next try later.
const lookTime = 5 * time.Second

func look(ctx context.Context, b *bus.Bus, stream string) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	_, err := b.JS.Stream(ctx, stream)
	return err
}

func processCommand() *cobra.Command {
	var f roleFlags
	var m manageFlags
	c := &cobra.Command{
		Use: "process", Short: "Run a process server: it brings changes from the bus into the vault",
		Long: "Run a process server. Run as many as you like on as many hosts: they share the disks between\n" +
			"them, and when one comes, stops or dies the others notice within seconds.",
	}
	f.add(c)
	f.size(c)
	for _, old := range []string{"replicas", "changes-bytes"} { // earlier process servers made the streams, too
		_ = c.Flags().MarkDeprecated(old, "control makes the streams") // fails only for a flag that is not there
	}
	m.add(c, "health, metrics")
	c.Flags().StringVar(&f.pool, "pool", "", "handle the changes of this pool alone, see docs/ops/pools.md (default: those of no pool)")
	c.Flags().BoolVar(&f.standby, "standby", false, "handle them only while no other process server of the pool lives")
	c.Flags().Int64Var(&f.memory, "memory-bytes", consumers.Default().MemoryBytes, "bytes of changes that may wait for the vault in memory")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.fill(cmd, "process"); err != nil {
			return err
		}
		log, err := f.log(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		pool := streams.Pool(f.pool)
		if err := pool.Validate(); err != nil {
			return cli.Usage(c.CommandPath()+" --help", "--pool: %v", err)
		}
		there := func(ctx context.Context, b *bus.Bus) error { return made(ctx, b, pool) }
		b, v, err := f.open(cmd.Context(), log, roleStart, there)
		if err != nil {
			if cmd.Context().Err() != nil {
				return nil // it was stopped while it waited
			}
			return err
		}
		defer b.Close()
		cfg := consumers.Default()
		cfg.MemoryBytes, cfg.Pool, cfg.Standby = f.memory, pool, f.standby
		var s *process.Server
		app := fx.New(fx.NopLogger, fx.StartTimeout(roleStart), fx.StopTimeout(roleStop), fx.Supply(b, v, cfg, log), consumers.Module, fx.Populate(&s))
		if err := app.Err(); err != nil {
			return dig.RootCause(err)
		}
		p, err := m.open(f.dir, log, console.Config{
			Enrol: func() (*enrol.Service, error) { return nil, errors.New("ask a control, this is a process server") },
			Ready: func(ctx context.Context) error { return there(ctx, b) },
			Metrics: []func(context.Context) ([]console.Family, error){console.Runtime, func(context.Context) ([]console.Family, error) {
				return appliance.ProcessMetrics(s.Stats()), nil
			}},
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "process server is up\n  bus       %s\n  vault     %s (%s)\n", b.Conn.ConnectedUrlRedacted(), v.Store().URL(), v.ID())
		p.say(cmd.OutOrStdout())
		return errors.Join(runApp(cmd.Context(), app, nil), p.close())
	}
	return c
}

func controlCommand(version string) *cobra.Command {
	var f roleFlags
	var m manageFlags
	c := &cobra.Command{
		Use: "control", Short: "Run a control: it makes recovery points, watches health and brings machines up",
		Long: "Run a control. Run it on two or three hosts: one is active, the others wait and take over when it\n" +
			"stops or dies. Where DIR/trust has the keys that leeward nats init made, it lets agents in.",
	}
	f.add(c)
	f.size(c)
	m.add(c, "enrolment, health, metrics")
	c.Flags().StringArrayVar(&f.pools, "pool", nil, "make a pool of process servers, `NAME[@CLUSTER[:REPLICAS]]`, its changes on those NATS nodes; may be repeated")
	c.Flags().StringVar(&f.pool, "reverse-pool", "", "pool that handles what machines write that are re-protected from here")
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
		b, v, err := f.open(cmd.Context(), log, roleStart, f.ensure)
		if err != nil {
			return err
		}
		defer b.Close()
		return f.control(cmd, m, version, b, v, log)
	}
	return c
}

// control runs a control on a bus.
func (f *roleFlags) control(cmd *cobra.Command, m manageFlags, version string, b *bus.Bus, v *vault.Vault, log *slog.Logger) error {
	var on stage
	front := on.console()
	var err error
	if front.Pages, err = pages(f.dir, m, f.connect, version, log); err != nil {
		return err
	}
	p, err := m.open(f.dir, log, front)
	if err != nil {
		return err
	}
	if p.server != nil && front.Pages != nil {
		on.url = p.server.Reached(m.advertise)
	}
	o, ab, err := authority(cmd.Context(), f.dir, p.pin, f.connect, log)
	if err != nil {
		return errors.Join(err, p.close())
	}
	defer ab.Close()
	on.waiting.Store(&understudy{bus: b, vault: v, keys: o, log: log})
	cfg := control.Default()
	cfg.Dir, cfg.Version, cfg.Health.RPO, cfg.ReversePool = f.dir, version, f.rpo, streams.Pool(f.pool)
	// A machine that is re-protected publishes with the rights of control, from a process of
	// its own: what it is told must be good there.
	cfg.Keeper = failover.Keeper{Command: keeper(), Vault: f.vault, KeyFile: absolute(f.key), Bus: absolute(f.connect.Context), Server: f.connect.URL}
	fmt.Fprintf(cmd.OutOrStdout(), "control is up, waiting for its turn\n  bus       %s\n  vault     %s (%s)\n", b.Conn.ConnectedUrlRedacted(), v.Store().URL(), v.ID())
	p.say(cmd.OutOrStdout())
	err = turns(cmd.Context(), b, log, func() *fx.App {
		return fx.New(fx.NopLogger, fx.StartTimeout(roleStart), fx.StopTimeout(roleStop), fx.Supply(b, v, cfg, log), control.Module, on.enter(o))
	}, cmd.OutOrStdout())
	return errors.Join(err, p.close())
}

// absolute is the path of a file, wherever a process works; the name of a context is none.
func absolute(path string) string {
	if _, err := os.Stat(path); err != nil {
		return path
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// turns runs what make makes whenever this process has the lease of control, until
// ctx ends.
func turns(ctx context.Context, b *bus.Bus, log *slog.Logger, make func() *fx.App, out io.Writer) error {
	h := bus.ThisProcess(fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()))
	for {
		h.Since = time.Now().UTC()
		actx, cancel := context.WithTimeout(ctx, askAgain*3)
		l, err := bus.AcquireRole(actx, b.JS, control.Role, h, bus.LeaseOptions{Log: log})
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
