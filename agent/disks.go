package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/streams/wire"
)

// ParseDisks reads a list of disks, one PATH[=NAME] a line. Empty lines and lines
// that begin with # are skipped.
func ParseDisks(text string) ([]DiskConfig, error) {
	var all []DiskConfig
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		d, err := ParseDisk(line)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// SetDisks changes which disks are protected, without touching those that stay. It
// returns at once: Run does it before the next point. What it cannot do is said in an
// event. It may be called by any goroutine.
func (a *Agent) SetDisks(disks []DiskConfig) error {
	cfg := a.cfg
	cfg.Disks = disks
	if err := cfg.Validate(); err != nil {
		return err
	}
	for {
		select {
		case a.want <- slices.Clone(disks):
			return nil
		default:
		}
		select {
		case <-a.want: // never applied: the newer list counts
		default:
		}
	}
}

// changes does between two points what SetDisks wants and what happened to disks. It
// fails only if no disk is left.
func (a *Agent) changes(ctx context.Context) error {
	select {
	case disks := <-a.want:
		a.cfg.Disks = disks
		a.apply(ctx)
	default:
	}
	if err := a.joined(ctx); err != nil {
		return err
	}
	for _, r := range slices.Clone(a.replicas) {
		if err := r.dev.Present(); err != nil {
			r.replace(err)
		}
		if err := r.trouble(); err != nil && (r.replaced != nil || !a.lone()) {
			a.setAside(r, err)
			continue
		}
		a.resized(ctx, r)
	}
	for _, r := range slices.Clone(a.replicas) {
		a.recapture(ctx, r)
	}
	a.again(ctx)
	if len(a.replicas)+len(a.joining) > 0 || slices.ContainsFunc(a.aside, func(x *aside) bool { return !x.at.IsZero() }) {
		return nil
	}
	return fmt.Errorf("no disk is left to protect: %w", a.aside[0].why)
}

// apply lets go of disks that are no longer wanted and protects those that are new.
func (a *Agent) apply(ctx context.Context) {
	a.aside = nil // they are among those that are wanted and not followed
	for _, r := range slices.Clone(a.replicas) {
		if !slices.Contains(a.cfg.Disks, r.disk) {
			a.exclude(r)
		}
	}
	for _, j := range slices.Clone(a.joining) {
		if !slices.Contains(a.cfg.Disks, j.r.disk) {
			j.cancel()
			<-j.done // nobody else uses the replica now
			a.joining = slices.DeleteFunc(a.joining, func(x *joining) bool { return x == j })
			a.exclude(j.r)
		}
	}
	for _, d := range a.cfg.Disks {
		if slices.ContainsFunc(a.replicas, func(r *replica) bool { return r.disk == d }) ||
			slices.ContainsFunc(a.joining, func(j *joining) bool { return j.r.disk == d }) {
			continue
		}
		r, err := a.protect(ctx, d)
		if err != nil {
			a.refuse(d, err)
			continue
		}
		a.event("disk-added", wire.Info, d.Name, fmt.Sprintf("disk %s (%s) is followed from now on; it is in the machine's points when it was copied", d.Name, d.Path), "")
		a.beside(ctx, r)
	}
	a.setReplicas(a.replicas)
	a.writeStatus()
}

// exclude stops protecting a disk and leaves nothing of it.
func (a *Agent) exclude(r *replica) {
	if r.keeper != nil {
		r.keeper.Discard()
	}
	r.close()
	a.drop(r)
	a.log.Info("no longer protected", "disk", r.name, "path", r.disk.Path)
	a.event("disk-excluded", wire.Warning, r.name, fmt.Sprintf("disk %s (%s) is no longer protected; its recovery points stay", r.name, r.disk.Path), "")
}

// resized opens a disk anew that has another size now. The others go on as if nothing
// had happened. Of a disk that has grown only what was added is read, if its source has
// kept what it saw.
func (a *Agent) resized(ctx context.Context, r *replica) {
	now, err := r.dev.CurrentSize()
	if err != nil {
		a.setAside(r, err)
		return
	}
	if now == r.dev.Size() {
		return
	}
	a.log.Info("disk was resized", "disk", r.name, "from", r.dev.Size(), "to", now)
	a.event("disk-resized", wire.Info, r.name, fmt.Sprintf("disk %s was resized from %d to %d bytes: it is opened anew and brought up to date", r.name, r.dev.Size(), now), "")
	a.reopen(ctx, r)
}

// reopen lets go of a disk and protects it again.
func (a *Agent) reopen(ctx context.Context, r *replica) {
	r.close()
	a.drop(r)
	again, err := a.protect(ctx, r.disk)
	if err != nil {
		a.refuse(r.disk, err)
		return
	}
	a.setReplicas(append(slices.Clone(a.replicas), again))
	a.writeStatus()
}

// recapture opens a disk anew that is to be followed by another driver now. Whoever asks for
// one that cannot follow it is told, and the disk stays as it is: a wish must not end its
// protection.
func (a *Agent) recapture(ctx context.Context, r *replica) {
	want, has := a.capture(), r.src.Name()
	if (want == "scan") == (has == "scan") {
		r.unable = ""
		return
	}
	if want != "scan" {
		if err := trace.Probe(r.dev); err != nil {
			if want == "trace" && r.unable != err.Error() {
				r.unable = err.Error()
				a.event("driver", wire.Warning, r.name, fmt.Sprintf("disk %s stays with hash scans, though the policy wants trace: %v", r.name, err), "set capture to auto in its policy")
			}
			return
		}
	}
	a.event("driver", wire.Info, r.name, fmt.Sprintf("disk %s was followed by %s and is opened anew, as capture is %s now: it is compared with the vault once", r.name, has, want), "")
	if r.keeper != nil {
		r.keeper.Discard()
	}
	a.reopen(ctx, r)
}

// Status is what the agent leaves in its state directory for `leeward-agent status`.
type Status struct {
	PID     int          `json:"pid"`
	Machine string       `json:"machine"`
	Group   string       `json:"group"`
	Since   time.Time    `json:"since"`
	Disks   []DiskStatus `json:"disks"`
	// Fenced says why the agent publishes nothing now, empty if it does.
	Fenced string        `json:"fenced,omitempty"`
	Aside  []AsideStatus `json:"aside,omitempty"`
}

// DiskStatus is how a disk is protected.
type DiskStatus struct {
	Name      string `json:"name"`
	Path      string `json:"path"`
	Size      uint64 `json:"size"`
	Driver    string `json:"driver"`
	Guarantee string `json:"guarantee"`
	// WithoutAgent says whether writes are recorded while no agent runs.
	WithoutAgent bool `json:"without_agent"`
	// Resumed is empty if this agent went on where the one before it had stopped, else
	// why the disk had to be compared.
	Resumed string `json:"resumed,omitempty"`
	// Waits is empty if the disk is in the machine's recovery points, else why not yet.
	Waits string `json:"waits,omitempty"`
}

// AsideStatus is a disk that should be protected and is not.
type AsideStatus struct {
	Name string `json:"name"`
	Path string `json:"path"`
	Why  string `json:"why"`
}

const statusFile = "status.json"

// ReadStatus reads what an agent left in its state directory. running says whether
// that agent lives.
func ReadStatus(dir string) (st Status, running bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, statusFile))
	if errors.Is(err, os.ErrNotExist) {
		return Status{}, false, fmt.Errorf("no agent has left its status in %s: name its directory with --state-dir", dir)
	}
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil {
		return Status{}, false, fmt.Errorf("read the agent's status: %w", err)
	}
	return st, alive(st.PID), nil
}

func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Signal(syscall.Signal(0))
	}
	return err == nil || errors.Is(err, os.ErrPermission)
}

// writeStatus tells `leeward-agent status` what is protected, and how. Best effort.
func (a *Agent) writeStatus() {
	st := Status{PID: os.Getpid(), Machine: a.cfg.Machine, Group: a.cfg.group(), Since: a.began, Fenced: a.fence.why()}
	all := slices.Clone(a.replicas)
	for _, j := range a.joining {
		all = append(all, j.r)
	}
	for i, r := range all {
		d := DiskStatus{Name: r.name, Path: r.disk.Path, Size: r.dev.Size(), Driver: r.src.Name(), Guarantee: r.src.Guarantee(), WithoutAgent: r.keeper != nil && a.keep != ""}
		if r.keeper != nil {
			if err := r.keeper.Resumed(); err != nil {
				d.Resumed = err.Error()
			}
		}
		if i >= len(a.replicas) {
			d.Waits = "it is being brought up to date"
		}
		st.Disks = append(st.Disks, d)
	}
	for _, x := range a.aside {
		st.Aside = append(st.Aside, AsideStatus{x.disk.Name, x.disk.Path, x.why.Error()})
	}
	b, err := json.MarshalIndent(st, "", "  ")
	if err == nil {
		tmp := filepath.Join(a.cfg.StateDir, statusFile+".new")
		if err = os.WriteFile(tmp, append(b, '\n'), 0o644); err == nil {
			err = os.Rename(tmp, filepath.Join(a.cfg.StateDir, statusFile))
		}
	}
	if err != nil {
		a.log.Warn("status is not written", "error", err)
	}
}
