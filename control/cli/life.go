package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/hydrate"
)

// lifeFlags are what the commands that take a machine through its life have.
type lifeFlags struct {
	request api.LifeRequest
	azure   azureFlags
	memory  string
	timeout time.Duration
	group   bool
	wait    bool
	limit   time.Duration
	dry     bool
	home    []string
	to      string
}

// lifeCommands are the verbs of failover beside test and cleanup.
func (a *app) lifeCommands() []*cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List the machines that were failed over, or are on their way", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Lives(ctx, api.Query{})
			if err != nil {
				return err
			}
			return a.print(items("leeward.lives.v1", all), func(w io.Writer) { lifeTable(w, all) })
		}),
	}
	show := &cobra.Command{
		Use: "show MACHINE", Short: "Show where a machine stands, how it came there, and what can be done next", Args: args("MACHINE"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			l, err := c.Life(ctx, args[0])
			if err != nil {
				return err
			}
			var copied *hydrate.Status
			if l.Job != "" && a.output == "table" {
				if j, err := c.Job(ctx, l.Job); err == nil { // one that was cleaned tells nothing
					copied = j.Hydration
				}
			}
			return a.print(l, func(w io.Writer) { lifeDetail(w, l, copied) })
		}),
	}
	a.watched(ls, show)
	return []*cobra.Command{
		a.startCommand(), a.validateCommand(), ls, show,
		a.lifeCommand("change-point MACHINE", "End the machine that runs and bring it up from another point; what it wrote is lost", life.Change, func(c *cobra.Command, f *lifeFlags) {
			c.Flags().StringVar(&f.request.Point, "point", "", "latest-processed, latest-app, an RFC 3339 time, a point's id or name")
		}),
		a.lifeCommand("commit MACHINE", "Keep the machine as it is: at the recovery site, or home again; older points stay", life.Commit, nil),
		a.lifeCommand("cancel MACHINE", "Undo what can be undone, and say what that is", life.Cancel, nil),
		a.lifeCommand("reprotect MACHINE", "Send what the machine writes at the recovery site to the vault", life.Reprotect, nil),
		a.lifeCommand("failback MACHINE", "Write the machine, as it is now, onto its disks at home", life.Failback, func(c *cobra.Command, f *lifeFlags) {
			c.Flags().StringArrayVar(&f.home, "disk", nil, "where a disk is to be written, as `NAME=PATH`; may be repeated")
			c.Flags().StringVar(&f.to, "to", "", "write all disks that --disk does not name in a machine that runs `leeward-agent rescue`: rescue:NAME")
		}),
		a.lifeCommand("complete MACHINE", "Let the machine stay where it runs for good; its source stays fenced, its points stay", life.Complete, nil),
	}
}

// protectionCommands are verbs of machine.
func (a *app) protectionCommands() []*cobra.Command {
	return []*cobra.Command{
		a.lifeCommand("disable MACHINE", "Stop protecting a machine; its points stay unless told otherwise", life.Disable, func(c *cobra.Command, f *lifeFlags) {
			c.Flags().BoolVar(&f.request.DropHistory, "drop-history", false, "remove the machine's own points too, but for pinned ones")
		}),
		a.lifeCommand("enable MACHINE", "Protect a machine again", life.Enable, nil),
	}
}

// add gives a command what starting and validating share.
func (f *lifeFlags) add(c *cobra.Command) {
	r, fl := &f.request, c.Flags()
	fl.BoolVar(&f.group, "group", false, "the name is a group's: fail all of its machines over, to a point they have in common")
	fl.StringVar(&r.Point, "point", failover.Latest, "latest, latest-processed, latest-app, latest-multi, latest-multi-app, an RFC 3339 time, a point's id or name")
	fl.StringVar(&r.Target, "target", "qemu", "qemu or azure")
	f.azure.add(c)
	fl.IntVar(&r.Options.CPUs, "cpus", 0, "CPUs (default: the protected machine's, as many as there are)")
	fl.StringVar(&f.memory, "memory", "", "memory, e.g. 512MiB (default: the protected machine's)")
	fl.StringVar(&r.Options.Firmware, "firmware", "", "bios or uefi (default: the protected machine's)")
	fl.StringVar(&r.Options.Hardware, "hardware", "", "qemu: compatible or virtio (default: compatible)")
	fl.StringVar(&r.Options.Hydrate, "hydrate", "", "qemu: copy the disks here behind the machine: on or off (default: on)")
	fl.StringVar(&r.Options.Fixup, "fixup", "", "qemu, azure: change the copy's disks so that it boots there: auto (qemu: with --hardware virtio; azure: always), off or always (default: auto)")
	fl.StringVar(&r.Options.Network, "network", "", "open: it reaches what control's host reaches; isolated: nothing; bridge:NAME: it is attached to that bridge of control's host (default: open)")
	fl.StringVar(&r.Options.Address, "address", "", "with --network bridge:NAME and --port: the `IP` that the machine will have there")
	fl.StringVar(&r.Options.Serial, "serial", "", "proof: a serial line that matches this regular expression")
	fl.IntVar(&r.Options.Port, "port", 0, "proof: this TCP port of the guest accepts")
	fl.StringVar(&r.Options.HTTP, "http", "", "proof: this path on --port answers 2xx")
	fl.DurationVar(&f.timeout, "timeout", 5*time.Minute, "longest wait for the proof")
	fl.BoolVar(&r.Planned, "planned", false, "make a final point first; lose nothing, or do not fail over")
	fl.StringVar(&r.Quiesce, "quiesce", "", "with --planned: `command`, run where control runs, that stops the applications before the final point")
	fl.Uint64Var(&r.MaxLoss, "max-loss", 0, "with --planned: `bytes` that may change on the source after the final point")
	fl.StringVar(&r.Shutdown, "shutdown", "", "`command`, run where control runs, that turns the source off once it is fenced")
}

// fill checks what only has a meaning together.
func (f *lifeFlags) fill(name string) (err error) {
	r := &f.request
	if r.Machine = name; f.group {
		r.Machine, r.Group = "", name
	}
	if r.Options.MemoryBytes, err = parseSize(f.memory); err != nil {
		return Usage("", "--memory: %v", err)
	}
	if r.Options.Azure, err = f.azure.place(r.Target == failover.Cloud); err != nil {
		return err
	}
	if f.timeout != 0 {
		if f.timeout < time.Second {
			return Usage("", "--timeout is %v: use at least 1s", f.timeout)
		}
		r.Options.TimeoutSecs = int(f.timeout.Seconds())
	}
	if !r.Planned && (r.Quiesce != "" || r.MaxLoss != 0) {
		return Usage("", "--quiesce and --max-loss belong to --planned")
	}
	for _, d := range f.home {
		disk, path, err := namedDisk(d)
		if err != nil {
			return err
		}
		if r.Home == nil {
			r.Home = map[string]string{}
		}
		r.Home[disk] = path
	}
	if f.to != "" {
		if !strings.HasPrefix(f.to, api.RescueDisk) || f.to == api.RescueDisk {
			return Usage("", "--to %q: write rescue:NAME, with the name that the rescue was enrolled by", f.to)
		}
		if r.Home == nil {
			r.Home = map[string]string{}
		}
		r.Home[api.EveryDisk] = f.to
	}
	return nil
}

// namedDisk reads NAME=PATH, or PATH=NAME as leeward-agent has it: names have no slash.
func namedDisk(arg string) (name, path string, err error) {
	name, path, ok := strings.Cut(arg, "=")
	if i := strings.LastIndexByte(arg, '='); ok && strings.Contains(name, "/") && !strings.Contains(arg[i:], "/") {
		path, name = arg[:i], arg[i+1:]
	}
	if !ok || name == "" || path == "" {
		return "", "", Usage("", "--disk %q: write NAME=PATH", arg)
	}
	return name, path, nil
}

func (a *app) validateCommand() *cobra.Command {
	var f lifeFlags
	c := &cobra.Command{
		Use: "validate MACHINE|GROUP", Short: "Say whether a failover would work now, and do nothing", Args: args("MACHINE|GROUP"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			if err := f.fill(args[0]); err != nil {
				return err
			}
			return a.validate(ctx, c, &f, args[0])
		}),
	}
	f.add(c)
	return c
}

// validate says whether a failover would work.
func (a *app) validate(ctx context.Context, c *api.Client, f *lifeFlags, name string) error {
	v, err := c.ValidateLife(ctx, f.request)
	if err != nil {
		return err
	}
	if err := a.print(v, func(w io.Writer) {
		row(w, "MACHINE", "CHECK", "RESULT", "WHAT")
		for _, k := range v.Checks {
			what := k.What
			if k.Try != "" {
				what += " (try: " + k.Try + ")"
			}
			row(w, k.Machine, k.Check, k.Result, what)
		}
	}); err != nil {
		return err
	}
	if !v.Good {
		return api.Errorf(api.CodeRefused, "see the checks above", "a failover of %s would fail now", name)
	}
	return nil
}

func (a *app) startCommand() *cobra.Command {
	var f lifeFlags
	c := a.lifeOf(&f, "start MACHINE|GROUP", "Bring a machine up instead of the one that is lost, and keep that one out", life.Start)
	c.Long = "Bring a machine up from a recovery point instead of the protected one, on the network.\n\n" +
		"First the source is fenced: whatever its agent still sends is refused. Then the machine comes up.\n" +
		"Until leeward failover commit another point can be chosen (change-point) and all of it be undone (cancel).\n\n" +
		"With --planned the agent makes a final point, and the failover goes on only if nothing changed after it:\n" +
		"stop the applications first, or let --quiesce do it."
	f.add(c)
	c.Flags().StringVar(&f.request.ID, "request-id", "", "the same id twice is the same failover")
	c.Flags().BoolVar(&f.dry, "dry-run", false, "only say whether it would work now and what would be lost, like leeward failover validate")
	return c
}

// lifeCommand makes a command that asks for one step.
func (a *app) lifeCommand(use, short string, kind life.Kind, more func(*cobra.Command, *lifeFlags)) *cobra.Command {
	var f lifeFlags
	c := a.lifeOf(&f, use, short, kind)
	if more != nil {
		more(c, &f)
	}
	return c
}

func (a *app) lifeOf(f *lifeFlags, use, short string, kind life.Kind) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: args(strings.Fields(use)[1]),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			if err := f.fill(args[0]); err != nil {
				return err
			}
			if f.dry {
				return a.validate(ctx, c, f, args[0])
			}
			if kind == life.Start && f.request.ID == "" {
				f.request.ID = strings.ToLower(rand.Text())
			}
			if err := a.confirm(ctx, c, kind, &f.request, args[0]); err != nil {
				return err
			}
			return a.live(ctx, c, kind, f)
		}),
	}
	c.Flags().StringVar(&f.request.Confirm, "confirm", "", "`name` of the machine or group again, instead of typing it when asked")
	c.Flags().BoolVar(&f.wait, "wait", false, "wait until it is done")
	c.Flags().DurationVar(&f.limit, "wait-limit", 0, "with --wait: wait so long, then exit 8 (0: for ever)")
	return c
}

// confirm has the name typed again where something is stopped or lost.
func (a *app) confirm(ctx context.Context, c *api.Client, kind life.Kind, r *api.LifeRequest, name string) error {
	if r.Confirm != "" {
		return nil // control compares it
	}
	what := ""
	switch kind {
	case life.Start:
		what = "fence " + name + " and bring it up here"
	case life.Complete:
		what = "leave " + name + " here for good"
	case life.Change:
		what = "end what runs of " + name + "; what it wrote since it was failed over is lost"
	case life.Disable:
		if r.DropHistory {
			what = "remove the recovery points of " + name
		}
	case life.Cancel:
		l, err := c.Life(ctx, name)
		if err != nil {
			return err
		}
		if l.Phase.Fenced() {
			what = "cancel: " + l.Phase.Undo()
		}
	}
	if what == "" {
		return nil
	}
	return a.typed(what, name, &r.Confirm)
}

// live asks for a step and, if wanted, waits until it is done.
func (a *app) live(ctx context.Context, c *api.Client, kind life.Kind, f *lifeFlags) error {
	all, err := c.AskLife(ctx, kind, f.request)
	if err != nil {
		return err
	}
	if f.wait {
		if f.limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, f.limit)
			defer cancel()
		}
		for i := range all {
			l, err := a.followLife(ctx, c, all[i].Machine)
			if err != nil {
				return err
			}
			all[i] = *l
		}
	}
	if err := a.print(items("leeward.lives.v1", all), func(w io.Writer) {
		if len(all) == 1 {
			lifeDetail(w, &all[0], nil)
			return
		}
		lifeTable(w, all)
	}); err != nil {
		return err
	}
	for _, l := range all {
		if wrong(kind, &l, f.wait) {
			return api.Errorf(api.CodeFailed, "leeward failover show "+l.Machine, "machine %s is %s: %s", l.Machine, l.Phase, l.Error)
		}
	}
	return nil
}

// wrong reports whether a step that was waited for did not lead where it should.
func wrong(kind life.Kind, l *life.Life, waited bool) bool {
	want := map[life.Kind][]life.Phase{
		life.Start: {life.FailedOver}, life.Change: {life.FailedOver}, life.Commit: {life.Committed, life.Protected},
		life.Reprotect: {life.Ready}, life.Failback: {life.Returned}, life.Complete: {life.Migrated}, life.Disable: {life.Disabled}, life.Enable: {life.Protected},
	}[kind]
	return waited && want != nil && !slices.Contains(want, l.Phase)
}

// followLife tells on stderr how a machine goes on, and returns where it came to rest.
func (a *app) followLife(ctx context.Context, c *api.Client, machine string) (*life.Life, error) {
	p := newProgress(a.Err)
	defer p.done()
	var after uint64
	told := life.Phase("")
	for {
		l, err := c.WatchLife(ctx, machine, after)
		if err != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, api.Errorf(api.CodeTimeout, "leeward failover show "+machine, "machine %s is not there yet, and goes on", machine)
			}
			return nil, err
		}
		if l.Phase != told || l.Failures > 0 && l.Attempt != after {
			p.say("%s %s %-15s %s", time.Now().Format(time.TimeOnly), machine, l.Phase, l.Error)
			told = l.Phase
		}
		if !l.Phase.Working() {
			return l, nil
		}
		after = l.Attempt
	}
}

func lifeTable(w io.Writer, all []life.Life) {
	if len(all) == 0 {
		fmt.Fprintln(w, "nothing was failed over yet: leeward failover start MACHINE, or try it: leeward failover test MACHINE")
		return
	}
	row(w, "MACHINE", "PHASE", "SINCE", "POINT", "JOB", "BY", "ERROR")
	for _, l := range all {
		row(w, l.Machine, l.Phase, ago(l.Since), l.Point, l.Job, l.By, l.Error)
	}
}

// nextSteps says what can be asked for in each phase.
var nextSteps = map[life.Phase]string{
	life.Protected: "leeward failover validate, start; leeward machine disable", life.FailedOver: "leeward failover commit, change-point, cancel",
	life.Down: "leeward failover change-point, cancel", life.Committed: "leeward failover reprotect, complete", life.Ready: "leeward failover failback, cancel",
	life.Returned: "leeward failover commit, cancel", life.Disabled: "leeward machine enable",
}

func lifeDetail(w io.Writer, l *life.Life, copied *hydrate.Status) {
	row(w, "machine", l.Machine)
	row(w, "phase", l.Phase)
	if !l.Since.IsZero() {
		row(w, "since", stamp(l.Since)+", "+ago(l.Since))
	}
	if l.By != "" {
		row(w, "asked by", l.By)
	}
	if l.Point != "" {
		row(w, "point", l.Point)
	}
	if l.Job != "" {
		row(w, "job", l.Job)
	}
	if copied != nil {
		row(w, "local copy", localCopy(copied))
	}
	if l.Loss != nil {
		row(w, "loss", fmt.Sprintf("%s changed on the source after the final point", size(*l.Loss)))
	}
	if l.Error != "" {
		row(w, "error", l.Error)
	}
	if undo := l.Phase.Undo(); undo != "" {
		row(w, "a cancel", undo)
	}
	if next := nextSteps[l.Phase]; next != "" {
		row(w, "next", next)
	}
	flush(w)
	if len(l.Past) > 0 {
		fmt.Fprintln(w)
	}
	for _, s := range l.Past {
		row(w, stamp(s.At), s.Phase, s.By, s.Why)
	}
}

// fenceCommand looks at fences, and takes one away that nothing needs any more.
func (a *app) fenceCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List the machines whose source is kept out, and why", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Fences(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.fences.v1", all), func(w io.Writer) {
				row(w, "MACHINE", "PHASE", "SINCE", "MAY WRITE", "NEEDED", "WHY")
				for _, f := range all {
					row(w, f.Machine, f.Phase, ago(f.Since), f.Holder, f.Needed, f.Why)
				}
			})
		}),
	}
	var r api.FenceRequest
	lift := &cobra.Command{
		Use: "lift MACHINE", Short: "Take a fence away by hand, where nothing needs it any more", Args: args("MACHINE"),
		Long: "Take a fence away by hand. Fences go by themselves with what put them up (cancel, commit at home,\n" +
			"machine enable); this is for one that is left of a state that was lost. Only an admin may.",
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			r.Machine = args[0]
			if r.Confirm == "" {
				if err := a.typed("let the agent of "+r.Machine+" write again", r.Machine, &r.Confirm); err != nil {
					return err
				}
			}
			f, err := c.LiftFence(ctx, r)
			if err != nil {
				return err
			}
			return a.print(f, func(w io.Writer) { fmt.Fprintf(w, "the fence of %s is gone\n", f.Machine) })
		}),
	}
	lift.Flags().StringVar(&r.Confirm, "confirm", "", "`name` of the machine again, instead of typing it when asked")
	return noun("fence", "Look at who is kept from writing", ls, lift)
}
