package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/drill"
	"github.com/leeward-dr/leeward/control/policy"
)

func (a *app) drillCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List the drills", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Drills(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.drills.v1", all), func(w io.Writer) {
				if len(all) == 0 {
					fmt.Fprintln(w, "no drill: nobody tests by itself (leeward drill set NAME --plan PLAN --every 168h --at 03:00)")
					return
				}
				drillTable(w, all)
			})
		}),
	}
	d := drill.Drill{Every: policy.Duration(7 * 24 * time.Hour)}
	set := &cobra.Command{
		Use: "set NAME", Short: "Make a drill or change it: a plan that is tested by itself", Args: args("NAME"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			d.Name = args[0]
			got, err := c.SetDrill(ctx, d)
			if err != nil {
				return err
			}
			return a.print(items("leeward.drills.v1", []api.Drill{*got}), func(w io.Writer) { drillTable(w, []api.Drill{*got}) })
		}),
	}
	set.Flags().StringVar(&d.Plan, "plan", "", "the plan to carry out as a test")
	set.Flags().DurationVar((*time.Duration)(&d.Every), "every", time.Duration(d.Every), "how often")
	set.Flags().StringVar(&d.At, "at", "", "time of day in the server's time zone, like 03:00 (default: whenever --every is over)")
	set.Flags().BoolVar(&d.Paused, "paused", false, "keep it, but do not begin it")
	_ = set.MarkFlagRequired("plan") // only fails for a flag that is not there
	run := &cobra.Command{
		Use: "run NAME", Short: "Begin a drill now", Args: args("NAME"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			got, err := c.RunDrill(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(items("leeward.drills.v1", []api.Drill{*got}), func(w io.Writer) {
				fmt.Fprintf(w, "drill %s is on its way: leeward plan status %s\n", got.Drill.Name, got.State.Run)
			})
		}),
	}
	del := &cobra.Command{
		Use: "delete NAME", Short: "Remove a drill; its reports stay", Args: args("NAME"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error { return c.DeleteDrill(ctx, args[0]) }),
	}
	a.careful(del, func(d string) string { return "remove drill " + d + ": nobody tests by itself then" })
	return noun("drill", "Tests that run by themselves, with signed reports", append([]*cobra.Command{ls, set, run, del}, a.reportCommands()...)...)
}

func drillTable(w io.Writer, all []api.Drill) {
	row(w, "DRILL", "PLAN", "EVERY", "AT", "NEXT", "LAST", "RESULT", "REPORT")
	for _, d := range all {
		next, last, result := "paused", "", ""
		if !d.Next.IsZero() {
			next = stamp(d.Next)
		}
		if !d.State.Last.IsZero() {
			last = stamp(d.State.Last)
		}
		switch {
		case d.State.Run != "":
			result = "on its way: " + d.State.Run
		case d.State.Report != "" && d.State.Passed:
			result = "passed"
		case d.State.Report != "":
			result = fmt.Sprintf("failed (%d in a row)", d.State.Failed)
		}
		row(w, d.Drill.Name, d.Drill.Plan, d.Drill.Every, d.Drill.At, next, last, result, d.State.Report)
	}
}

// reportCommands are those about what drills leave.
func (a *app) reportCommands() []*cobra.Command {
	reports := &cobra.Command{
		Use: "reports", Short: "List the reports of drills, the oldest first", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Reports(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.drill-reports.v1", all), func(w io.Writer) {
				row(w, "REPORT", "DRILL", "PLAN", "STARTED", "TOOK", "MACHINES", "RESULT")
				for _, r := range all {
					result := "passed"
					if !r.Passed {
						result = r.Why
					}
					row(w, r.ID, r.Drill, r.Plan, stamp(r.Started), r.Ended.Sub(r.Started).Round(time.Second), fmt.Sprintf("%d of %d alive", r.Alive, r.Machines), result)
				}
			})
		}),
	}
	report := &cobra.Command{
		Use: "report REPORT", Short: "Show a report; -o json is the signed document", Args: args("REPORT"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			s, err := c.Report(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) { drillReport(w, s) })
		}),
	}
	var key string
	verify := &cobra.Command{
		Use: "verify FILE", Short: "Check the signature of a report's file; no server is asked", Args: args("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := a.readFile(args[0])
			if err != nil {
				return err
			}
			s, err := drill.Parse(b)
			if err != nil {
				return Usage("leeward drill report REPORT -o json", "%s: %v", args[0], err)
			}
			if err := s.Verify(key); err != nil {
				return api.Errorf(api.CodeFailed, "ask for it again: leeward drill report "+s.Report.ID+" -o json", "%s: %w", args[0], err)
			}
			return a.print(s, func(w io.Writer) {
				drillReport(w, s)
				if key == "" {
					fmt.Fprintln(w, "not changed since it was signed; by whom, only --key can tell")
				} else {
					fmt.Fprintln(w, "signed by the key given, and not changed since")
				}
			})
		},
	}
	verify.Flags().StringVar(&key, "key", "", "the public key that must have signed it, as a report you trust names it")
	return []*cobra.Command{reports, report, verify}
}

func drillReport(w io.Writer, s *drill.Signed) {
	r := &s.Report
	row(w, "report", r.ID)
	row(w, "drill", r.Drill+", plan "+r.Plan)
	row(w, "began", stamp(r.Started)+", took "+r.Ended.Sub(r.Started).Round(time.Second).String())
	result := "passed"
	if !r.Passed {
		result = r.Why
	}
	row(w, "result", result)
	row(w, "signed by", s.Key)
	row(w, "")
	row(w, "MACHINE", "POINT", "AGE", "ALIVE", "BOOT", "RTO", "PROOF OR ERROR")
	for _, m := range r.Machines {
		what := strings.Join(m.Evidence, "; ")
		if m.Error != "" {
			what = m.Error
		}
		row(w, m.Machine, m.Point, seconds(m.AgeSeconds), m.Alive, seconds(m.BootSeconds), seconds(m.RTOSeconds), what)
	}
	for _, t := range r.Steps {
		row(w, t.Step, "", "", t.State, "", "", strings.TrimSpace(t.Result+" "+t.Error))
	}
}
