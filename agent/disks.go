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

// changes does between two points what SetDisks wants and what disks that were
// resized need. errAgain says that something was done: the disks must be synced first.
func (a *Agent) changes(ctx context.Context) error {
	select {
	case disks := <-a.want:
		a.cfg.Disks = disks
		a.apply(ctx)
		return errAgain
	default:
	}
	err := a.sizes()
	if errors.Is(err, errResized) {
		err = a.resized()
	}
	if err != nil || len(a.reopen) == 0 {
		return err
	}
	// There is no point without them: if one cannot be opened this is tried again.
	for len(a.reopen) > 0 {
		if err := a.protect(ctx, a.reopen[0]); err != nil {
			return fmt.Errorf("open disk %s in its new size: %w", a.reopen[0].Name, err)
		}
		a.reopen = a.reopen[1:]
	}
	a.writeStatus()
	return errAgain
}

// apply lets go of disks that are no longer wanted and protects those that are new.
func (a *Agent) apply(ctx context.Context) {
	a.reopen = nil // they are among those that are wanted and not followed
	for _, r := range slices.Clone(a.replicas) {
		if !slices.Contains(a.cfg.Disks, r.disk) {
			a.exclude(r)
		}
	}
	for _, d := range a.cfg.Disks {
		if slices.ContainsFunc(a.replicas, func(r *replica) bool { return r.disk == d }) {
			continue
		}
		if err := a.protect(ctx, d); err != nil {
			a.log.Warn("disk is not protected", "disk", d.Name, "error", err)
			a.event("disk-refused", wire.Critical, d.Name, fmt.Sprintf("disk %s (%s) is not protected: %v", d.Name, d.Path, err), "repair the cause and reload the list of disks")
			continue
		}
		a.event("disk-added", wire.Info, d.Name, fmt.Sprintf("disk %s (%s) is protected from now on", d.Name, d.Path), "")
	}
	a.writeStatus()
}

// exclude stops protecting a disk and leaves nothing of it.
func (a *Agent) exclude(r *replica) {
	if r.keeper != nil {
		r.keeper.Discard()
	}
	r.close()
	a.replicas = slices.DeleteFunc(a.replicas, func(x *replica) bool { return x == r })
	a.log.Info("no longer protected", "disk", r.name, "path", r.disk.Path)
	a.event("disk-excluded", wire.Warning, r.name, fmt.Sprintf("disk %s (%s) is no longer protected; its recovery points stay", r.name, r.disk.Path), "")
}

// resized lets go of every disk that has another size now, to be opened anew. The
// others go on as if nothing had happened.
func (a *Agent) resized() error {
	for _, r := range slices.Clone(a.replicas) {
		now, err := r.dev.CurrentSize()
		if err != nil {
			return err
		}
		if now == r.dev.Size() {
			continue
		}
		a.log.Info("disk was resized", "disk", r.name, "from", r.dev.Size(), "to", now)
		a.event("disk-resized", wire.Info, r.name, fmt.Sprintf("disk %s was resized from %d to %d bytes: it is opened anew and compared with the vault", r.name, r.dev.Size(), now), "")
		r.close()
		a.replicas = slices.DeleteFunc(a.replicas, func(x *replica) bool { return x == r })
		a.reopen = append(a.reopen, r.disk)
	}
	return nil
}

// Status is what the agent leaves in its state directory for `leeward-agent status`.
type Status struct {
	PID     int          `json:"pid"`
	Machine string       `json:"machine"`
	Group   string       `json:"group"`
	Since   time.Time    `json:"since"`
	Disks   []DiskStatus `json:"disks"`
	// Fenced says why the agent publishes nothing now, empty if it does.
	Fenced string `json:"fenced,omitempty"`
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
	for _, r := range a.replicas {
		d := DiskStatus{Name: r.name, Path: r.disk.Path, Size: r.dev.Size(), Driver: r.src.Name(), Guarantee: r.src.Guarantee(), WithoutAgent: r.keeper != nil && a.keep != ""}
		if r.keeper != nil {
			if err := r.keeper.Resumed(); err != nil {
				d.Resumed = err.Error()
			}
		}
		st.Disks = append(st.Disks, d)
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
