package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/target/hydrate"
)

func (a *app) jobCommand() *cobra.Command {
	var q api.Query
	ls := &cobra.Command{
		Use: "ls [MACHINE]", Short: "List failover jobs, the oldest first", Args: args("[MACHINE]"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			if len(args) > 0 {
				q.Machine = args[0]
			}
			all, err := c.Jobs(ctx, q)
			if err != nil {
				return err
			}
			return a.print(items("leeward.jobs.v1", all), func(w io.Writer) { jobTable(w, all) })
		}),
	}
	ls.Flags().IntVar(&q.Limit, "limit", 50, "only the newest so many")
	show := &cobra.Command{
		Use: "show JOB", Short: "Show a job and its evidence", Args: args("JOB"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			j, err := c.Job(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printJob(j)
		}),
	}
	follow := &cobra.Command{
		Use: "follow JOB", Short: "Follow a job until its verdict; Ctrl-C leaves it running", Args: args("JOB"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			j, err := a.follow(ctx, args[0], watchOf(c, args[0]))
			if err != nil {
				return a.detached(err, args[0])
			}
			return a.verdict(j)
		}),
	}
	note := &cobra.Command{
		Use: "note JOB TEXT", Short: "Note something of a job, before it is cleaned up; it stays in its history", Args: args("JOB", "TEXT"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			j, err := c.Note(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return a.printJob(j)
		}),
	}
	a.watched(ls, show)
	return noun("job", "Failover jobs", ls, show, follow, note)
}

func jobTable(w io.Writer, all []failover.Job) {
	if len(all) == 0 {
		fmt.Fprintln(w, "no job yet: start one with leeward failover test MACHINE")
		return
	}
	row(w, "JOB", "KIND", "STATE", "MACHINE", "POINT", "POINT TIME", "TARGET", "RTO", "STARTED")
	for _, j := range all {
		rto := ""
		if j.Result != nil && j.Result.Alive {
			rto = seconds(j.Result.RTOSeconds)
		}
		row(w, j.ID, j.Kind, j.State, j.Request.Machine, j.Point, stamp(j.PointTime), j.Request.Target, rto, stamp(j.Started))
	}
}

// jobDocument is a job as -o json prints it. Schema "leeward.job.v1".
type jobDocument struct {
	Schema string `json:"schema"`
	*failover.Job
}

func (a *app) printJob(j *failover.Job) error {
	return a.print(jobDocument{"leeward.job.v1", j}, func(w io.Writer) {
		row(w, "job", j.ID)
		row(w, "kind", j.Kind)
		row(w, "state", j.State)
		row(w, "machine", j.Request.Machine)
		if j.Point != "" {
			row(w, "point", fmt.Sprintf("%s of %s, %s-consistent", j.Point, stamp(j.PointTime), j.Consistency))
		}
		row(w, "target", j.Request.Target)
		if j.Error != "" {
			row(w, "error", j.Error)
		}
		if j.Notes != "" {
			row(w, "notes", j.Notes)
		}
		if r := j.Result; r != nil {
			row(w, "alive", r.Alive)
			for _, e := range r.Evidence {
				row(w, "evidence", e)
			}
			for _, f := range r.Fixups {
				row(w, "fixed", f)
			}
			row(w, "times", fmt.Sprintf("first line %s, alive %s, RTO %s", seconds(r.FirstLineSeconds), seconds(r.BootSeconds), seconds(r.RTOSeconds)))
			row(w, "read", fmt.Sprintf("%s by the guest, %s from the vault", size(r.GuestReadBytes), size(r.VaultReadBytes)))
			if r.Screen != "" {
				row(w, "screen", r.Screen)
			}
			if r.SerialLog != "" {
				row(w, "serial log", r.SerialLog)
			}
			if r.PortOnHost != 0 {
				row(w, "port", fmt.Sprintf("127.0.0.1:%d", r.PortOnHost))
			}
		}
		if h := j.Hydration; h != nil {
			row(w, "local copy", localCopy(h))
		}
		if j.Directory != "" {
			row(w, "directory", j.Directory)
		}
		for _, s := range j.Stages {
			row(w, string(s.State), stamp(s.At)+"  "+s.Detail)
		}
	})
}

// localCopy says how much of a machine's disks is where it runs.
func localCopy(h *hydrate.Status) string {
	if h.Whole {
		return size(h.Done) + ", all of it, verified: the vault is not read any more"
	}
	s := fmt.Sprintf("%s of %s", size(h.Done), size(h.Total))
	if h.Why != "" {
		s += "; waits: " + h.Why
	}
	return s
}

// watcher returns a job when its revision is greater than after, or unchanged
// after a while.
type watcher func(ctx context.Context, after uint64) (*failover.Job, error)

func watchOf(c *api.Client, id string) watcher {
	return func(ctx context.Context, after uint64) (*failover.Job, error) { return c.WatchJob(ctx, id, after) }
}

// follow tells on stderr how a job goes, and returns it when its verdict is known.
func (a *app) follow(ctx context.Context, id string, watch watcher) (*failover.Job, error) {
	p := newProgress(a.Err)
	defer p.done()
	var after uint64
	told := 0
	for {
		j, err := watch(ctx, after)
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for ; told < len(j.Stages); told++ {
			s := j.Stages[told]
			p.say("%s %s %-11s %s", s.At.Format(time.TimeOnly), id, s.State, s.Detail)
		}
		if j.Progress != nil && j.State.Running() {
			p.show(j.Progress.What, j.Progress.Done, j.Progress.Total)
		}
		if !j.State.Running() {
			return j, nil
		}
		after = j.Revision
	}
}

// detached says that a job goes on after its follower left.
func (a *app) detached(err error, id string) error {
	switch {
	case errors.Is(err, context.Canceled):
		return &Exit{Code: ExitInterrupted, Err: api.Errorf(api.CodeFailed, "leeward job follow "+id, "detached, job %s goes on", id)}
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeTimeout, "leeward job follow "+id, "no verdict in time, job %s goes on", id)
	}
	return err
}

// verdict prints a finished job; one that is not alive is an error.
func (a *app) verdict(j *failover.Job) error {
	if err := a.printJob(j); err != nil {
		return err
	}
	if j.State == failover.Alive || j.State == failover.Cleaned && j.Result != nil && j.Result.Alive {
		return nil
	}
	why := j.Error
	if why == "" {
		why = "it is " + string(j.State)
	}
	try := ""
	if j.Directory != "" {
		try = "leeward failover cleanup " + j.ID
	}
	code := api.CodeFailed
	if j.Code != "" {
		code = api.Code(j.Code)
	}
	return api.Errorf(code, try, "test failover of %s failed: %s", j.Request.Machine, why)
}
