package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"
	"golang.org/x/term"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/streams/bus"
)

func exitCode(err error) int {
	var u usage
	switch {
	case errors.As(err, &u), strings.HasPrefix(err.Error(), "unknown command"):
		return exitUsage
	case errors.Is(err, bus.ErrHeld), errors.Is(err, disk.ErrLocked):
		return 5
	case errors.Is(err, nats.ErrAuthorization):
		return 7
	case errors.Is(err, bus.ErrUnreachable):
		return 6
	}
	return exitFailed
}

type runFlags struct {
	cfg     agent.Config
	disks   []string
	hooks   hookFlags
	ioClass string
	verbose bool
	json    bool

	disksFile string
	named     []agent.DiskConfig // on the command line
}

func runCommand() *cobra.Command {
	f := &runFlags{cfg: agent.Default()}
	c := &cobra.Command{
		Use:   "run --machine NAME --disk PATH[=NAME] …",
		Short: "Protect disks until stopped",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f.enrolled(c.Flags().Changed("machine"))
			return f.run(c.Context())
		},
	}
	s := c.Flags()
	s.StringVar(&f.cfg.Bus.Context, "context", os.Getenv("LEEWARD_CONTEXT"), "nats CLI context `file` with server and key (contexts/agent.json of the appliance)")
	s.StringVar(&f.cfg.Bus.URL, "server", os.Getenv("LEEWARD_SERVER"), "`url` of the NATS server")
	s.StringVar(&f.cfg.Bus.NKeyFile, "key-file", os.Getenv("LEEWARD_AGENT_KEY_FILE"), "`file` with the agent's NATS key")
	s.StringVar(&f.cfg.Bus.CAFile, "ca", os.Getenv("LEEWARD_CA"), "`file` with the certificate that signed the server's")
	s.StringVar(&f.cfg.Machine, "machine", hostname(), "`name` of this machine")
	s.StringVar(&f.cfg.Group, "group", "", "consistency group `name` (default: one of its own)")
	s.StringVar((*string)(&f.cfg.Pool), "pool", os.Getenv("LEEWARD_POOL"), "`name` of the process servers that handle the changes (default: those that have no pool of their own)")
	s.StringArrayVar(&f.disks, "disk", nil, "block device or image file to protect, as `PATH[=NAME]`, or on:PATH of a file system that it holds; may be repeated")
	s.StringVar(&f.disksFile, "disks-file", os.Getenv("LEEWARD_DISKS_FILE"), "`file` with more disks, a PATH[=NAME] a line; read again at SIGHUP")
	s.StringVar(&f.cfg.Capture, "capture", f.cfg.Capture, "how changes are found: auto, trace or scan")
	s.DurationVar(&f.cfg.Interval, "interval", f.cfg.Interval, "time between recovery points")
	s.DurationVar(&f.cfg.FreezeLimit, "freeze-limit", f.cfg.FreezeLimit, "longest time a filesystem may stay frozen")
	s.Int64Var(&f.cfg.FreezeBytes, "freeze-bytes", f.cfg.FreezeBytes, "freeze only when at most so many `bytes` are left to read")
	s.StringVar(&f.cfg.StateDir, "state-dir", f.cfg.StateDir, "`directory` for locks, not on a protected disk")
	s.StringVar(&f.cfg.Spool, "spool", f.cfg.Spool, "`directory` for tables that should not fill memory, not on a protected disk (scan driver)")
	s.Int64Var(&f.cfg.ScanRate, "scan-rate", f.cfg.ScanRate, "`bytes` a second of each disk that scans and comparisons read at most (0: no limit)")
	s.StringVar(&f.ioClass, "io-class", "", "`class` of the agent's disk reads: low or idle (default: as started)")
	s.StringVar(&f.cfg.CompressAt, "compress-at", f.cfg.CompressAt, "where blocks are compressed: agent or process-server")
	s.Int64Var(&f.cfg.RateBytes, "rate-bytes", 0, "`bytes` a second that may leave this machine, over all disks (default: no bound)")
	s.IntVar(&f.cfg.WindowBytes, "window-bytes", f.cfg.WindowBytes, "`bytes` of each disk on their way to the stream")
	s.StringVar(&f.cfg.Instance, "instance", os.Getenv("LEEWARD_INSTANCE"), "`name` that a fence lets through; set by a failover in the copy of the machine")
	s.BoolVar(&f.cfg.TakeOver, "take-over", false, "take the disks from the agent instance that holds them")
	s.DurationVar(&f.cfg.Apps.Interval, "app-interval", f.cfg.Apps.Interval, "time between application-consistent points")
	f.hooks.add(s, &f.cfg.Apps)
	s.BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	s.BoolVar(&f.json, "log-json", false, "log JSON also on a terminal")
	return c
}

// enrolled fills in what `leeward-agent enrol` has written.
func (f *runFlags) enrolled(named bool) {
	b := &f.cfg.Bus
	if b.Context == "" && b.URL == "" {
		if file := filepath.Join(configDir(), "agent.json"); enrolledAs(file) != "" {
			b.Context = file
		}
	}
	if machine := enrolledAs(b.Context); machine != "" && !named {
		f.cfg.Machine = machine
	}
}

func hostname() string {
	h, _ := os.Hostname()
	h, _, _ = strings.Cut(h, ".")
	return h
}

func (f *runFlags) run(ctx context.Context) error {
	for _, d := range f.disks {
		dc, err := agent.ParseDisk(d)
		if err != nil {
			return usage{err}
		}
		f.named = append(f.named, dc)
	}
	f.cfg.Disks, f.cfg.Version = f.named, version()
	if f.disksFile != "" {
		disks, err := readDisks(f.disksFile)
		if err != nil {
			return usage{err}
		}
		f.cfg.Disks = append(f.named[:len(f.named):len(f.named)], disks...)
	}
	if err := f.hooks.parse(&f.cfg.Apps); err != nil {
		return usage{err}
	}
	if err := f.cfg.Validate(); err != nil {
		return usage{err}
	}
	if err := agent.SetIOClass(f.ioClass); err != nil {
		return usage{err}
	}
	log := logger(f.verbose, f.json)
	p := &progress{log: log}
	f.cfg.Progress = p.tell
	var a *agent.Agent
	app := fx.New(
		fx.Supply(f.cfg, log), agent.Module, fx.Populate(&a),
		fx.StartTimeout(2*time.Minute), fx.StopTimeout(30*time.Second),
		fx.WithLogger(func() fxevent.Logger {
			l := &fxevent.SlogLogger{Logger: log}
			l.UseLogLevel(slog.LevelDebug)
			l.UseErrorLevel(slog.LevelDebug)
			return l
		}),
	)
	if err := app.Err(); err != nil {
		return plain(err)
	}
	if err := app.Start(ctx); err != nil {
		return plain(err)
	}
	stopReloading := f.reload(a, log)
	sig := <-app.Wait()
	stopReloading()
	stop, cancel := context.WithTimeout(context.Background(), app.StopTimeout())
	defer cancel()
	if err := app.Stop(stop); err != nil {
		return fmt.Errorf("stop: %w", plain(err))
	}
	if sig.ExitCode != 0 {
		return errors.New("stopped by an error, see the log")
	}
	return nil
}

// plain strips what the wiring wraps around an error: the operator wants the cause.
func plain(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil || !strings.HasPrefix(fmt.Sprintf("%T", err), "dig.") && !strings.HasPrefix(fmt.Sprintf("%T", err), "*dig.") && !strings.HasPrefix(err.Error(), "could not build arguments") && !strings.HasPrefix(err.Error(), "received non-nil error") {
			return err
		}
		err = next
	}
}

func logger(verbose, json bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if verbose {
		o.Level = slog.LevelDebug
	}
	if !json && term.IsTerminal(int(os.Stderr.Fd())) {
		return slog.New(slog.NewTextHandler(os.Stderr, o))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o))
}
