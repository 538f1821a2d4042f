package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/bench/fleet"
	"github.com/leeward-dr/leeward/bench/report"
)

const (
	processFigure = "kill -9 of a process server: every machine has a new point again"
	tailFigure    = "all NATS nodes lose power and what was not flushed: the same"
	// failureMost is how long it may take, as bench fleet and bench power ask.
	failureMost = 30
)

var failuresExtra = extra{
	name: "failures", run: (*extraRun).failures,
	figures: []report.Goal{
		{Figure: processFigure, Against: "30 s", Limit: 1},
		{Figure: tailFigure, Against: "30 s", Limit: 1},
	},
}

// failures runs the cluster in network namespaces, in a process of its own as they need.
func (x *extraRun) failures(ctx context.Context) (all []report.Goal, err error) {
	for _, f := range []struct {
		figure, kind string
		args         []string
	}{
		{processFigure, "kill p", []string{"fleet", "-rounds", "5", "-agents", "3", "-only", "kill p"}},
		{tailFigure, "power of all", []string{"power", "-rounds", "3", "-agents", "3"}},
	} {
		r, err := x.fleet(ctx, f.args)
		if err != nil {
			return all, err
		}
		var took []float64
		for _, k := range r.Rounds {
			if strings.HasPrefix(k.What, f.kind) {
				took = append(took, k.Recovery.Seconds())
			}
		}
		g := report.Goal{Figure: f.figure, Against: fmt.Sprintf("%d s", failureMost), Limit: 1, Ours: "-"}
		switch {
		case r.Skipped != "":
			g.Why = r.Skipped
		case len(took) == 0:
			g.Why = fmt.Sprintf("no round broke that: %v", r.Bad)
		case len(r.Bad) > 0:
			g.Why = "a promise was broken: " + r.Bad[0]
		default:
			worst := report.Quantile(took, 1)
			g.Ours, g.Ratio = fmt.Sprintf("%.1f s at most of %d (median %.1f; %d disks compared as a whole)", worst, len(took), report.Median(took), len(r.Resyncs)), worst/failureMost
		}
		all = append(all, g)
	}
	return all, nil
}

// fleet runs this program again and reads what it kept.
func (x *extraRun) fleet(ctx context.Context, args []string) (*fleet.Result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	kept := filepath.Join(x.rig.Dir, args[0])
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("the cluster did not come to an end in time"))
	defer cancel()
	cmd := exec.CommandContext(ctx, self, append(args, "-results", kept, "-dir", x.rig.Dir, "-leeward", x.bin.Leeward, "-agent", x.bin.Agent)...)
	var said bytes.Buffer
	cmd.Stderr = io.MultiWriter(os.Stderr, &said)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it cleans up
	cmd.WaitDelay = 2 * time.Minute
	ran := cmd.Run()
	files, err := filepath.Glob(filepath.Join(kept, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		why := strings.Split(strings.TrimSpace(said.String()), "\n")
		return nil, fmt.Errorf("bench %s left no result: %s: %w", args[0], strings.Join(why[max(0, len(why)-2):], " / "), errors.Join(ran, context.Cause(ctx)))
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		return nil, err
	}
	var doc struct{ Detail fleet.Result }
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("bench %s: %w", args[0], err)
	}
	return &doc.Detail, nil
}
