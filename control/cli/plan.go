package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/notify"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/policy"
)

func (a *app) planCommand() *cobra.Command {
	validate := &cobra.Command{
		Use: "validate FILE", Short: "Check a plan's file; no server is asked", Args: args("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := a.parsePlan(args[0])
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) {
				fmt.Fprintf(w, "plan %s is good: %d stages, %d machines\n", p.Name, len(p.Stages), len(p.Machines()))
			})
		},
	}
	apply := &cobra.Command{
		Use: "apply FILE", Short: "Write a plan, or its next version", Args: args("FILE"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			p, err := a.parsePlan(args[0])
			if err != nil {
				return err
			}
			e, err := c.ApplyPlan(ctx, *p)
			if err != nil {
				return err
			}
			return a.print(planDocument{"leeward.plan-version.v1", e}, func(w io.Writer) { fmt.Fprintf(w, "plan %s is version %d now\n", e.Name, e.Version) })
		}),
	}
	ls := &cobra.Command{
		Use: "ls", Short: "List the plans", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Plans(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.plans.v1", all), func(w io.Writer) { planTable(w, all) })
		}),
	}
	var versions bool
	show := &cobra.Command{
		Use: "show PLAN", Short: "Show a plan as the YAML that apply reads", Args: args("PLAN"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			all, err := c.PlanVersions(ctx, args[0])
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return api.Errorf(api.CodeNotFound, "leeward plan ls", "there is no plan %s", args[0])
			}
			if versions {
				return a.print(items("leeward.plans.v1", all), func(w io.Writer) { planTable(w, all) })
			}
			newest := all[len(all)-1]
			return a.print(planDocument{"leeward.plan-version.v1", &newest}, func(w io.Writer) { _ = yaml.NewEncoder(w).Encode(newest.Value) }) // a table's writer takes everything
		}),
	}
	show.Flags().BoolVar(&versions, "versions", false, "list its versions instead")
	del := &cobra.Command{
		Use: "delete PLAN", Short: "Remove a plan; its runs stay", Args: args("PLAN"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error { return c.DeletePlan(ctx, args[0]) }),
	}
	a.careful(del, func(p string) string { return "remove plan " + p })
	return noun("plan", "Recovery plans", append([]*cobra.Command{validate, apply, ls, show, del}, a.runCommands()...)...)
}

func (a *app) parsePlan(file string) (*plan.Plan, error) {
	b, err := a.readFile(file)
	if err != nil {
		return nil, err
	}
	p, err := plan.Parse(b)
	if err != nil {
		return nil, Usage("", "%s: %v", file, err)
	}
	return p, nil
}

func planTable(w io.Writer, all []api.Plan) {
	row(w, "PLAN", "VERSION", "STAGES", "MACHINES", "CHANGED", "BY", "ABOUT")
	for _, e := range all {
		row(w, e.Name, e.Version, len(e.Value.Stages), len(e.Value.Machines()), stamp(e.Changed), e.By, e.Value.About)
	}
}

func (a *app) runCommands() []*cobra.Command {
	var r api.RunRequest
	var dry, noWait bool
	var limit time.Duration
	run := &cobra.Command{
		Use: "run PLAN", Short: "Carry a plan out; Ctrl-C only stops watching", Args: args("PLAN"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			r.Plan = args[0]
			if dry {
				f, err := c.Forecast(ctx, r)
				if err != nil {
					return err
				}
				return a.print(f, func(w io.Writer) { forecast(w, f) })
			}
			if r.ID == "" {
				r.ID = strings.ToLower("run-" + rand.Text()[:10])
			}
			if r.Mode != plan.Test && r.Confirm == "" {
				if err := a.typed("carry out plan "+r.Plan+" as "+r.Mode+" in earnest", r.Plan, &r.Confirm); err != nil {
					return err
				}
			}
			run, err := c.RunPlan(ctx, r)
			if err != nil {
				return err
			}
			if noWait {
				return a.print(run, func(w io.Writer) { runTable(w, run) })
			}
			if limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, limit)
				defer cancel()
			}
			return a.watchRun(ctx, c, run)
		}),
	}
	run.Flags().StringVar(&r.Mode, "mode", plan.Test, "test, failover or failback")
	run.Flags().StringVar(&r.Point, "point", "", "for machines that name none: as for failover (default: the plan's)")
	run.Flags().StringVar(&r.ID, "request-id", "", "the same id twice is the same run")
	run.Flags().BoolVar(&dry, "dry-run", false, "only say what would be done, what would be lost and how long it may take")
	run.Flags().StringVar(&r.Confirm, "confirm", "", "`name` of the plan again, instead of typing it when asked: for failover and failback")
	run.Flags().DurationVar(&limit, "wait-limit", 0, "wait so long, then exit 8; the run goes on (0: for ever)")
	run.Flags().BoolVar(&noWait, "no-wait", false, "return when the run has begun")
	return append([]*cobra.Command{run}, a.underWayCommands()...)
}

// underWayCommands are those about runs that were begun.
func (a *app) underWayCommands() []*cobra.Command {
	var task string
	answer := &cobra.Command{
		Use: "answer RUN ANSWER", Short: "Answer a run that asks: yes or no; retry, continue or stop", Args: args("RUN", "ANSWER"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			run, err := c.Answer(ctx, api.Answer{Run: args[0], Task: task, Answer: args[1]})
			if err != nil {
				return err
			}
			return a.print(run, func(w io.Writer) { runTable(w, run) })
		}),
	}
	answer.Flags().StringVar(&task, "task", "", "the step that is answered, if several ask")
	status := &cobra.Command{
		Use: "status RUN", Short: "Show how far a run is", Args: args("RUN"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			run, err := c.Run(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(run, func(w io.Writer) { runTable(w, run) })
		}),
	}
	cancel := &cobra.Command{
		Use: "cancel RUN", Short: "Start nothing more of a run; what came up stays", Args: args("RUN"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			run, err := c.CancelRun(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(run, func(w io.Writer) { runTable(w, run) })
		}),
	}
	runs := &cobra.Command{
		Use: "runs", Short: "List the runs of plans, the oldest first", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Runs(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.runs.v1", all), func(w io.Writer) {
				row(w, "RUN", "PLAN", "VERSION", "MODE", "STATE", "STARTED", "BY")
				for _, r := range all {
					row(w, r.ID, r.Plan, r.Version, r.Mode, r.State, stamp(r.Started), r.By)
				}
			})
		}),
	}
	a.watched(status, runs)
	return []*cobra.Command{answer, status, cancel, runs}
}

// watchRun shows a run until it is over or asks.
func (a *app) watchRun(ctx context.Context, c *api.Client, run *plan.Run) error {
	said := map[string]plan.TaskState{}
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		for _, k := range run.Tasks {
			if said[k.ID] != k.State && k.State != plan.Waiting && a.output == "table" {
				a.note("%s %s: %s", k.ID, k.Name(), k.State)
			}
			said[k.ID] = k.State
		}
		if run.State != plan.RunActive {
			break
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return api.Errorf(api.CodeTimeout, "leeward plan status "+run.ID, "run %s is not over yet, and goes on", run.ID)
			}
			return &Exit{Code: ExitInterrupted, Err: api.Errorf(api.CodeFailed, "leeward plan status "+run.ID, "detached, run %s goes on", run.ID)}
		case <-t.C:
		}
		next, err := c.Run(ctx, run.ID)
		if ctx.Err() != nil {
			continue // it says how
		}
		if err != nil {
			return err
		}
		run = next
	}
	if err := a.print(run, func(w io.Writer) { runTable(w, run) }); err != nil {
		return err
	}
	switch run.State {
	case plan.RunFailed, plan.RunCancelled:
		why := "run %s is %s"
		if run.Error != "" {
			why += ": " + strings.ReplaceAll(run.Error, "%", "%%")
		}
		return api.Errorf(api.CodeFailed, "leeward plan status "+run.ID, why, run.ID, run.State)
	case plan.RunWarnings:
		return &Exit{Code: ExitPartial}
	}
	return nil
}

func runTable(w io.Writer, r *plan.Run) {
	row(w, "run", r.ID)
	row(w, "plan", fmt.Sprintf("%s, version %d", r.Plan, r.Version))
	row(w, "mode", r.Mode)
	row(w, "point", r.Point)
	row(w, "state", r.State)
	if r.Error != "" {
		row(w, "error", r.Error)
	}
	flush(w)
	fmt.Fprintln(w)
	row(w, "STEP", "WHAT", "STATE", "ATTEMPTS", "TOOK", "DETAIL")
	for i := range r.Tasks {
		t := &r.Tasks[i]
		took := ""
		if !t.Ended.IsZero() && !t.Started.IsZero() {
			took = span(t.Ended.Sub(t.Started))
		}
		detail := firstOf(t.Question, t.Error, t.Result)
		row(w, t.ID, t.Name(), t.State, t.Attempts, took, detail)
	}
	flush(w)
	for i := range r.Tasks {
		if t := &r.Tasks[i]; t.State == plan.Asking {
			fmt.Fprintf(w, "it waits: leeward plan answer %s ANSWER --task %s\n", r.ID, t.ID)
		}
	}
}

func firstOf(all ...string) string {
	for _, s := range all {
		if s != "" {
			line, _, _ := strings.Cut(s, "\n")
			return line
		}
	}
	return ""
}

func forecast(w io.Writer, f *plan.DryRun) {
	row(w, "STEP", "WHAT", "POINT", "LOSS", "TIME")
	for _, s := range f.Steps {
		loss, took := "", ""
		if s.Point != "" {
			loss = fmt.Sprintf("%s, %s", seconds(s.LossSeconds), size(s.LossBytes))
		}
		if s.Seconds > 0 {
			took = seconds(s.Seconds)
		}
		what := s.What
		if s.Skipped {
			what += " (not in mode " + f.Mode + ")"
		}
		row(w, s.Task, what, s.Point, loss, took)
	}
	flush(w)
	fmt.Fprintf(w, "\nexpected loss %s and %s; expected time %s, scripts, requests and %d questions not counted\n", seconds(f.LossSeconds), size(f.LossBytes), seconds(f.Seconds), f.Gates)
	for _, p := range f.Problems {
		fmt.Fprintf(w, "problem: %s\n", p)
	}
}

func (a *app) notifyCommand() *cobra.Command {
	show := &cobra.Command{
		Use: "show", Short: "Show where notifications go", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			n, err := c.Notifications(ctx)
			if err != nil {
				return err
			}
			return a.print(notifyDocument{"leeward.notify.v1", n}, func(w io.Writer) { _ = yaml.NewEncoder(w).Encode(n) }) // a table's writer takes everything
		}),
	}
	set := &cobra.Command{
		Use: "set FILE", Short: "Say where notifications go: the YAML of leeward notify show", Args: args("FILE"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			b, err := a.readFile(args[0])
			if err != nil {
				return err
			}
			var n notify.Config
			if err := policy.Strict(b, &n); err != nil {
				return Usage("", "%s: %v", args[0], err)
			}
			if err := n.Validate(); err != nil {
				return Usage("", "%s: %v", args[0], err)
			}
			return c.SetNotifications(ctx, n)
		}),
	}
	test := &cobra.Command{
		Use: "test", Short: "Send a test notification everywhere", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			r, err := c.TestNotifications(ctx)
			if err != nil {
				return err
			}
			err = a.print(sentDocument{"leeward.notify-test.v1", r}, func(w io.Writer) {
				for _, s := range r.Sent {
					row(w, "sent", s)
				}
				for _, s := range r.Failed {
					row(w, "failed", s)
				}
			})
			if err == nil && len(r.Failed) > 0 {
				return &Exit{Code: ExitPartial}
			}
			return err
		}),
	}
	return noun("notify", "Webhooks and mails about health", show, set, test)
}
