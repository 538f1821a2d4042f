package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
)

type testFlags struct {
	vault    vaultFlags
	azure    azureFlags
	request  failover.Request
	memory   string
	timeout  time.Duration
	wait     time.Duration
	noWait   bool
	exit     bool // --probe-and-exit
	evidence string
}

func (a *app) failoverCommand() *cobra.Command {
	var notes string
	cleanup := &cobra.Command{
		Use: "cleanup JOB", Short: "End a job's machine and remove every trace of it", Args: args("JOB"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			if notes != "" {
				if _, err := c.Note(ctx, args[0], notes); err != nil {
					return err
				}
			}
			j, err := a.cleanup(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.print(jobDocument{"leeward.job.v1", j}, func(w io.Writer) {
				fmt.Fprintf(w, "job %s is cleaned: its machine is off and its directory is gone\n", j.ID)
				if out := j.Request.Options.Out; out != "" {
					fmt.Fprintf(w, "%s was asked for and stays\n", out)
				}
			})
		}),
	}
	cleanup.Flags().StringVar(&notes, "notes", "", "what is to be remembered of the test, kept in its history")
	return noun("failover", "Bring machines up from recovery points", append([]*cobra.Command{a.testCommand(), a.exportCommand(), cleanup}, a.lifeCommands()...)...)
}

// cleanup cleans a job up. Where that takes long, as in Azure, it tells how it goes on.
func (a *app) cleanup(ctx context.Context, c *api.Client, id string) (*failover.Job, error) {
	j, err := c.BeginCleanup(ctx, id)
	if err == nil && j.State == failover.Cleaning {
		if _, err = a.follow(ctx, id, watchOf(c, id)); err != nil {
			return nil, a.detached(err, id)
		}
		j, err = c.Cleanup(ctx, id) // done, or begun again where it failed
	}
	if err == nil && j.State != failover.Cleaned {
		return nil, api.Errorf(api.CodeFailed, "leeward job show "+id, "job %s is not cleaned: %s", id, j.Error)
	}
	return j, err
}

func (a *app) testCommand() *cobra.Command {
	var f testFlags
	c := &cobra.Command{
		Use: "test MACHINE", Short: "Bring a machine up beside the running one, prove it lives, clean up", Args: args("MACHINE"),
		Long: "Bring a machine up from a recovery point, isolated, while the protected one runs on.\n\n" +
			"Control does it as a job; leeward failover cleanup JOB removes it. With --vault this command does\n" +
			"it itself with nothing but the vault and its key, until Ctrl-C or --probe-and-exit, and cleans up.\n\n" +
			"The target qemu needs a proof of life to wait for: --serial REGEX or --port N. The target azure needs\n" +
			"--serial, and its settings: DIR/azure.yaml where control runs, or flags (docs/ops/azure.md). The target disk\n" +
			"writes files instead: --out FILE --format raw, vhd, qcow2 or vmdk (of a machine with several disks: a directory).",
		RunE: func(cmd *cobra.Command, args []string) error { return a.test(cmd.Context(), &f, args[0]) },
	}
	r, fl := &f.request, c.Flags()
	fl.StringVar(&r.Point, "point", failover.Latest, "latest, latest-processed, latest-app, latest-multi, latest-multi-app, an RFC 3339 time, a point's id or name")
	fl.StringVar(&r.Target, "target", "qemu", "qemu, azure or disk")
	f.azure.add(c)
	fl.StringVar(&r.Options.Out, "out", "", "disk: file to write (on the machine that does the work)")
	fl.StringVar(&r.Options.Format, "format", "", "disk: raw, vhd, qcow2 or vmdk (default: raw)")
	fl.BoolVar(&r.Options.Libvirt, "libvirt", false, "disk: write MACHINE.xml for virsh define beside the disks")
	fl.IntVar(&r.Options.CPUs, "cpus", 0, "CPUs (default: the protected machine's, as many as there are)")
	fl.StringVar(&f.memory, "memory", "", "memory, e.g. 512MiB (default: the protected machine's)")
	fl.StringVar(&r.Options.Firmware, "firmware", "", "bios or uefi (default: the protected machine's)")
	fl.StringVar(&r.Options.Hardware, "hardware", "", "qemu: compatible or virtio (default: compatible)")
	fl.StringVar(&r.Options.Fixup, "fixup", "", "qemu, azure: change the copy's disks so that it boots there: auto (qemu: with --hardware virtio; azure: always), off or always (default: auto)")
	fl.StringVar(&r.Options.Serial, "serial", "", "proof: a serial line that matches this regular expression")
	fl.IntVar(&r.Options.Port, "port", 0, "proof: this TCP port of the guest accepts")
	fl.StringVar(&r.Options.HTTP, "http", "", "proof: this path on --port answers 2xx")
	fl.DurationVar(&f.timeout, "timeout", 5*time.Minute, "longest wait for the proof")
	fl.StringVar(&r.ID, "request-id", "", "the same id twice is the same job")
	fl.BoolVar(&r.Options.KeepEvidence, "keep-evidence", false, "keep what the probe saw in the history after cleanup")
	fl.BoolVar(&f.noWait, "no-wait", false, "return when the job has started")
	fl.DurationVar(&f.wait, "wait", 0, "wait so long for the verdict, then exit 8 (0: for ever)")
	fl.BoolVar(&f.exit, "probe-and-exit", false, "clean up as soon as the verdict is known")
	fl.StringVar(&f.evidence, "evidence", "", "directory to copy serial.log, screen.png and result.json to")
	f.vault.add(c)
	return c
}

// exportCommand is test --target disk, for those who look for another word.
func (a *app) exportCommand() *cobra.Command {
	f := testFlags{exit: true, timeout: time.Minute}
	c := &cobra.Command{
		Use: "export MACHINE --out DIR", Short: "Write a machine's disks to files, and describe it for libvirt", Args: args("MACHINE"),
		Long: "Write the disks of a machine at a recovery point to files, verified, where control runs, or with --vault\n" +
			"here. --libvirt also writes MACHINE.xml: virsh define takes it.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.test(cmd.Context(), &f, args[0]) },
	}
	r, fl := &f.request, c.Flags()
	r.Target = "disk"
	fl.StringVar(&r.Point, "point", failover.Latest, "latest, latest-processed, latest-app, latest-multi, latest-multi-app, an RFC 3339 time, a point's id or name")
	fl.StringVar(&r.Options.Out, "out", "", "folder or file to write")
	fl.StringVar(&r.Options.Format, "format", "", "raw, vhd, qcow2 or vmdk (default: raw)")
	fl.BoolVar(&r.Options.Libvirt, "libvirt", false, "write MACHINE.xml for virsh define beside the disks")
	fl.StringVar(&r.Options.Hardware, "hardware", "", "what MACHINE.xml gives the machine: compatible or virtio (default: compatible)")
	fl.StringVar(&r.ID, "request-id", "", "the same id twice is the same job")
	f.vault.add(c)
	return c
}

func (a *app) test(ctx context.Context, f *testFlags, machine string) error {
	if err := f.fill(machine); err != nil {
		return err
	}
	if f.vault.url != "" {
		return a.testOffline(ctx, f)
	}
	c, done, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	j, err := c.Test(ctx, f.request)
	if err != nil {
		return err
	}
	if f.noWait {
		return a.print(jobDocument{"leeward.job.v1", j}, func(w io.Writer) { fmt.Fprintf(w, "job %s has started\n", j.ID) })
	}
	wctx := ctx
	if f.wait > 0 {
		var cancel context.CancelFunc
		wctx, cancel = context.WithTimeout(ctx, f.wait)
		defer cancel()
	}
	id := j.ID
	if j, err = a.follow(wctx, id, watchOf(c, id)); err != nil {
		return a.detached(err, id)
	}
	if err := a.keep(f.evidence, j); err != nil {
		return err
	}
	if !f.exit {
		if j.State == failover.Alive && a.output == "table" {
			defer a.note("it runs until: leeward failover cleanup %s", id)
		}
		return a.verdict(j)
	}
	if _, err := a.cleanup(ctx, c, id); err != nil {
		return err
	}
	j.Directory = ""
	return a.verdict(j)
}

// fill checks the flags that only have a meaning together.
func (f *testFlags) fill(machine string) error {
	r := &f.request
	r.Machine = machine
	if r.ID == "" {
		r.ID = rand.Text()
	}
	if f.timeout < time.Second {
		return Usage("", "--timeout is %v: use at least 1s", f.timeout)
	}
	r.Options.TimeoutSecs = int(f.timeout.Seconds())
	var err error
	if r.Options.MemoryBytes, err = parseSize(f.memory); err != nil {
		return Usage("", "--memory: %v", err)
	}
	if r.Options.Azure, err = f.azure.place(r.Target == failover.Cloud); err != nil {
		return err
	}
	switch {
	case r.Target == failover.Cloud && r.Options.Serial == "":
		return Usage("add --serial 'login:'", "the target azure needs a serial line to wait for: a test reaches nothing else")
	case r.Target == "disk" && r.Options.Out == "":
		return Usage("", "the target disk needs --out FILE")
	case r.Target != "disk" && (r.Options.Out != "" || r.Options.Format != "" || r.Options.Libvirt):
		return Usage("", "--out, --format and --libvirt belong to --target disk")
	case r.Target == "qemu" && r.Options.Serial == "" && r.Options.Port == 0:
		return Usage("add --serial 'login:' or --port 22", "the target qemu needs a proof of life to wait for")
	}
	if r.Options.Out != "" {
		r.Options.Out = absolute(r.Options.Out)
	}
	if err := r.Validate(); err != nil {
		return Usage("", "%v", err)
	}
	return nil
}

// testOffline does the work in this process: no bus, no control.
func (a *app) testOffline(ctx context.Context, f *testFlags) error {
	v, err := f.vault.open(ctx, a)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "leeward-") // short: sockets below it have short paths
	if err != nil {
		return fmt.Errorf("make a directory for the run: %w", err)
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	e, err := failover.New(failover.Config{Dir: dir, Vault: v, Target: failover.Targets(log, failover.Azure{}), Log: log})
	if err != nil {
		return err
	}
	// What was started is ended, whatever happens to ctx meanwhile.
	clean := context.WithoutCancel(ctx)
	defer e.Stop(clean)
	job, err := e.Test(f.request)
	if err != nil {
		return err
	}
	j, err := a.follow(ctx, job.ID, func(ctx context.Context, after uint64) (*failover.Job, error) {
		j, err := e.Watch(ctx, job.ID, after)
		return &j, err
	})
	if err != nil {
		if _, cerr := e.Cleanup(clean, job.ID); cerr != nil {
			a.note("leeward: warning: %v", cerr)
		}
		return err
	}
	if err := a.keep(f.evidence, j); err != nil {
		return err
	}
	if j.State == failover.Alive && !f.exit && f.request.Target != "disk" {
		a.note("%s runs; Ctrl-C ends it and removes every trace", f.request.Machine)
		if j.Result.PortOnHost != 0 {
			a.note("its port %d is at 127.0.0.1:%d", f.request.Options.Port, j.Result.PortOnHost)
		}
		<-ctx.Done()
	}
	if _, err := e.Cleanup(clean, job.ID); err != nil {
		return err
	}
	j.Directory, j.Result = "", withoutFiles(j.Result)
	return a.verdict(j)
}

// withoutFiles takes the names of files that are gone out of a result.
func withoutFiles(r *failover.Result) *failover.Result {
	if r == nil {
		return nil
	}
	c := *r
	c.Screen, c.SerialLog, c.PortOnHost = "", "", 0
	return &c
}

// keep copies a job's evidence to dir.
func (a *app) keep(dir string, j *failover.Job) error {
	if dir == "" || j.Result == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep the evidence: %w", err)
	}
	for _, file := range []string{j.Result.Screen, j.Result.SerialLog} {
		if file == "" {
			continue
		}
		if err := copyFile(filepath.Join(dir, filepath.Base(file)), file); err != nil {
			return fmt.Errorf("keep the evidence: %w", err)
		}
	}
	b, err := json.MarshalIndent(j, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "result.json"), append(b, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("keep the evidence: %w", err)
	}
	return nil
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	return err
}

// parseSize reads bytes with an optional unit: 512MiB, 2G, 4096. Empty is 0.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimRight(s, "KMGTiBkmgt ")
	n, err := strconv.ParseInt(digits, 10, 64)
	unit := strings.ToUpper(strings.TrimSpace(s[len(digits):]))
	shift, ok := map[string]uint{"": 0, "B": 0, "K": 10, "KIB": 10, "M": 20, "MIB": 20, "G": 30, "GIB": 30, "T": 40, "TIB": 40}[unit]
	if err != nil || !ok || n <= 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is no size: use bytes with KiB, MiB, GiB or TiB, e.g. 512MiB", s)
	}
	return n << shift, nil
}
