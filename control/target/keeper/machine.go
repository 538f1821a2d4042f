package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/nbd"
)

// ErrGone means that there is no keeper, and so no machine, in a directory.
var ErrGone = errors.New("nobody keeps a machine here any more")

const (
	// tryAgain is how often a keeper that begins is tried to be reached.
	tryAgain = 20 * time.Millisecond
	// endTime is how long a keeper may take to end when its machine has.
	endTime = 30 * time.Second
)

// Machine is a machine in the hands of a keeper. It is a target.Running; several
// processes may have one of the same machine.
type Machine struct {
	dir      string
	patience time.Duration // for a keeper to end when its machine has

	mu      sync.Mutex
	stopped bool
	stopErr error
}

var _ target.Running = (*Machine)(nil)

// Start starts a keeper and returns when the machine was started. command is a program,
// with arguments, that calls Keep for dir, and is given spec on its standard input. If
// ctx ends before, so does the keeper.
func Start(ctx context.Context, command []string, dir string, spec any) (*Machine, error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode what to bring up: %w", err)
	}
	lock, err := take(dir)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, fmt.Errorf("a machine is kept in %s already", dir)
	}
	ended, err := launch(command, dir, b, lock)
	lock.Close() // the keeper has it
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, patience: endTime}
	for {
		err := m.ask(ctx, &question{Ask: askUp}, nil)
		if err == nil {
			return m, nil
		}
		if errors.Is(err, errUnreached) {
			select {
			case <-time.After(tryAgain):
				continue
			case <-ended:
			case <-ctx.Done():
			}
		}
		stopped, cancel := context.WithCancel(context.WithoutCancel(ctx))
		cancel()
		m.Stop(stopped) // what it says is what is said here
		if why := m.why(); why != nil && ctx.Err() == nil {
			err = why
		}
		return nil, errors.Join(err, ctx.Err())
	}
}

// launch starts the process. ended is closed when it has ended.
func launch(command []string, dir string, spec []byte, lock *os.File) (ended chan struct{}, err error) {
	log, err := os.OpenFile(filepath.Join(dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the keeper's log: %w", err)
	}
	defer log.Close()
	c := exec.Command(command[0], command[1:]...)
	c.Stdin = bytes.NewReader(spec)
	c.Stdout, c.Stderr = log, log
	c.ExtraFiles = []*os.File{lock} // lockFD
	// A session of its own: what the terminal or the service manager tells this process
	// is not for the machine.
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start a keeper: %w", err)
	}
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Wait() // keeper.json says why
	}()
	return ended, nil
}

// Adopt takes over the machine in dir, which another process started, in whatever state
// it is. It wraps ErrGone if there is none.
func Adopt(dir string) (*Machine, error) {
	if _, err := os.Stat(filepath.Join(dir, lockFile)); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrGone)
	}
	m := &Machine{dir: dir, patience: endTime}
	if m.gone() {
		return nil, fmt.Errorf("%s: %w", dir, errors.Join(ErrGone, m.why()))
	}
	return m, nil
}

// gone says whether the keeper has ended.
func (m *Machine) gone() bool {
	lock, err := take(m.dir)
	if lock != nil {
		lock.Close()
	}
	return lock != nil || errors.Is(err, os.ErrNotExist)
}

// why returns what a keeper failed with at its end, if it did.
func (m *Machine) why() error {
	if s, err := readState(m.dir); err == nil && s.Failed != "" {
		return errors.New(s.Failed)
	}
	return nil
}

// errUnreached means that the keeper does not answer: not yet, or not any more.
var errUnreached = errors.New("the keeper cannot be reached")

// ask asks a keeper and waits for the answer.
func (m *Machine) ask(ctx context.Context, q *question, a *answer) error {
	c, err := nbd.Connect(ctx, m.dir, socketFile)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreached, err)
	}
	defer c.Close()
	defer hangUp(ctx, c)()
	c.SetWriteDeadline(time.Now().Add(askTime))
	if err := json.NewEncoder(c).Encode(q); err != nil {
		return fmt.Errorf("%w: %s: %w", errUnreached, q.Ask, errors.Join(ctx.Err(), err))
	}
	if a == nil {
		a = new(answer)
	}
	if err := decode(c, a); err != nil {
		// It ended before it answered. Asking again does no harm, whatever was asked.
		return fmt.Errorf("%w: %s: %w", errUnreached, q.Ask, errors.Join(ctx.Err(), err))
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// reach is ask for a keeper that may be about to begin, or to have ended.
func (m *Machine) reach(ctx context.Context, q *question, a *answer) error {
	for {
		err := m.ask(ctx, q, a)
		switch {
		case err == nil || ctx.Err() != nil || !errors.Is(err, errUnreached):
			return err // answered, or not wanted any more
		case m.gone():
			return errors.Join(ErrGone, m.why())
		}
		select {
		case <-time.After(tryAgain):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// Probe implements target.Running.
func (m *Machine) Probe(ctx context.Context, p target.Probe) (*target.Result, error) {
	var a answer
	if err := m.reach(ctx, &question{Ask: askProbe, Probe: &p}, &a); err != nil {
		return nil, err
	}
	return a.Result, nil
}

// Do asks the machine for something that a Doer can do. in and out are JSON; out may be nil.
// Who asks again after the keeper could not be reached may make it do the thing twice.
func (m *Machine) Do(ctx context.Context, what string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var a answer
	if err := m.reach(ctx, &question{Ask: askDo, What: what, In: b}, &a); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(a.Out, out); err != nil {
		return fmt.Errorf("%s: the answer: %w", what, err)
	}
	return nil
}

// Wait implements target.Running. A machine that was stopped has ended.
func (m *Machine) Wait(ctx context.Context) error {
	err := m.reach(ctx, &question{Ask: askWait}, nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped && errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// Stop implements target.Running, and returns when the keeper has ended too. One that
// does not answer is killed, and its machine with it.
func (m *Machine) Stop(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.stopped {
		m.stopErr = m.end(ctx)
		m.stopped = m.stopErr == nil || m.gone()
	}
	return m.stopErr
}

func (m *Machine) end(ctx context.Context) error {
	grace := stopTime
	if d, ok := ctx.Deadline(); ok {
		grace = time.Until(d)
	}
	if ctx.Err() != nil {
		grace = 0
	}
	// The machine has its grace, its keeper some time for itself.
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(0, grace)+m.patience)
	defer cancel()
	asked, hangUp := context.WithCancel(limit)
	defer hangUp()
	if grace > 0 {
		defer context.AfterFunc(ctx, hangUp)() // cuts the grace short
	}
	err := m.reach(asked, &question{Ask: askStop, Grace: max(0, grace)}, nil)
	if errors.Is(err, ErrGone) {
		return nil
	}
	for !m.gone() {
		select {
		case <-time.After(tryAgain):
		case <-limit.Done():
			return errors.Join(err, m.kill())
		}
	}
	if asked.Err() != nil {
		return nil // it was not waited for: how it went is in the log
	}
	return err
}

// kill ends a keeper that does not answer.
func (m *Machine) kill() error {
	s, err := readState(m.dir)
	if err != nil {
		return fmt.Errorf("a keeper that does not answer cannot be ended: %w", err)
	}
	p, err := os.FindProcess(s.PID) // holds on to the process, not to its number
	if err != nil {
		return err
	}
	defer p.Release()
	if at, err := began(s.PID); err != nil || at != s.Start {
		return fmt.Errorf("a keeper that does not answer cannot be ended: process %d is another", s.PID)
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end a keeper that does not answer: %w", err)
	}
	for deadline := time.Now().Add(endTime); !m.gone(); time.Sleep(tryAgain) {
		if time.Now().After(deadline) {
			return fmt.Errorf("keeper %d was killed and is still there", s.PID)
		}
	}
	return nil
}
