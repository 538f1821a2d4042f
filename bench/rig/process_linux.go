package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a process and its children cost.
type Usage struct {
	Wall time.Duration `json:"wall"`
	CPU  time.Duration `json:"cpu"` // user and system
	RSS  int64         `json:"rss"` // most memory resident at once, bytes, of the largest process
}

// Process is a program that was started by a Rig.
type Process struct {
	Name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how, valid once done is closed

	mu   sync.Mutex
	peak int64
}

// Command is a program to start.
type Command struct {
	Name string // for messages and the log's file name
	Argv []string
	Env  []string // on top of this process's own
	Dir  string
}

// Start starts a program whose output is appended to <dir>/<name>.log. It is
// killed by Close at the latest, and by the kernel if this process dies.
func (r *Rig) Start(c Command) (*Process, error) {
	log, err := os.OpenFile(filepath.Join(r.Dir, c.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", c.Name, err)
	}
	p, err := start(c, log)
	if err != nil {
		log.Close()
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		log.Close()
		close(p.done)
	}()
	r.Defer("stop "+c.Name, func() error { return p.Kill() })
	return p, nil
}

func start(c Command, out *os.File) (*Process, error) {
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	// A group of its own keeps a ^C at the terminal from reaching it before the
	// bench has decided in which order things stop.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	return &Process{Name: c.Name, log: out.Name(), cmd: cmd, done: make(chan struct{})}, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Alive says whether the process still runs, and if not, how it ended.
func (p *Process) Alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended (%v); its last words: %s", p.Name, p.err, p.Tail(3))
	default:
		return nil
	}
}

// Kill sends SIGKILL and waits for the end. It is no error if it has ended before.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s (process %d) does not die", p.Name, p.PID())
	}
}

// Stop asks the process to end and kills it after patience.
func (p *Process) Stop(patience time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s did not stop within %v", p.Name, patience), p.Kill())
	}
}

// Tail returns the last n lines of the log, joined by " / ".
func (p *Process) Tail(n int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(b), n)
}

// CPU is what the process and its living children have used so far; children that
// ended and were waited for are counted too.
func (p *Process) CPU() time.Duration {
	var n time.Duration
	for _, pid := range tree(p.PID()) {
		n += cpuOf(pid)
	}
	return n
}

// RSS is the most memory that the largest process of the tree had resident so far,
// in bytes. The kernel keeps that figure, so it does not depend on when it is read.
func (p *Process) RSS() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pid := range tree(p.PID()) {
		p.peak = max(p.peak, peakOf(pid))
	}
	return p.peak
}

// Measure runs a program to its end and accounts for it. finish, if set, belongs to
// the timed part (write-back of what the program wrote).
func Measure(ctx context.Context, c Command, finish func() error) (u Usage, output string, err error) {
	out, err := os.CreateTemp("", "leeward-bench-out-")
	if err != nil {
		return u, "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	began := time.Now()
	p, err := start(c, out)
	if err != nil {
		return u, "", err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	// The rusage of a child counts the memory of the process that forked it, so peak
	// memory is sampled from the child's own account instead.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-p.done:
			running = false
		case <-tick.C:
			p.RSS()
		case <-ctx.Done():
			return u, "", errors.Join(context.Cause(ctx), p.Kill())
		}
	}
	if finish != nil && p.err == nil {
		err = finish()
	}
	u = Usage{Wall: time.Since(began), CPU: p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), RSS: p.peak}
	text, _ := os.ReadFile(out.Name())
	if p.err != nil {
		return u, string(text), fmt.Errorf("%s: %w: %s", c.Name, p.err, lastLines(string(text), 3))
	}
	return u, string(text), err
}

// tree lists a process and its descendants.
func tree(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all) && len(all) < 1000; i++ {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		if err != nil {
			continue
		}
		for _, t := range tasks {
			b, err := os.ReadFile(t)
			if err != nil {
				continue // the thread has ended
			}
			for _, s := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(s); err == nil {
					all = append(all, n)
				}
			}
		}
	}
	return all
}

// tick is the unit of times in /proc/PID/stat: the kernel's user interface has
// fixed it at 100 a second on every architecture that Go runs on.
const tick = 10 * time.Millisecond

// CPUOf is what a process, and its children that were waited for, have used so far.
func CPUOf(pid int) time.Duration { return cpuOf(pid) }

func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var n time.Duration
	for i := 11; i <= 14 && i < len(f); i++ { // utime stime cutime cstime
		v, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0
		}
		n += time.Duration(v) * tick
	}
	return n
}

func peakOf(pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}

// Busy is the processor time that this machine has spent on anything so far, stolen
// time included. What others used in a step is its growth less the step's own.
func Busy() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	var n time.Duration
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // user nice system irq softirq steal
		if i < len(f) {
			v, err := strconv.ParseInt(f[i], 10, 64)
			if err != nil {
				return 0
			}
			n += time.Duration(v) * tick
		}
	}
	return n
}

// SelfCPU is the processor time that this process has used so far.
func SelfCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ExitCode is how the process ended, -1 if by a signal. Valid once Done is closed.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }
