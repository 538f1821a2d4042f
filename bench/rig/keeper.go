package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"
)

// restartAfter is how long a service manager waits before it starts a service again.
const restartAfter = 200 * time.Millisecond

// Exit is how a program ended.
type Exit struct {
	Code int
	Text string
}

// Keeper keeps one program running, as a service manager does.
type Keeper struct {
	rig *Rig
	cmd Command

	mu sync.Mutex
	// guarded by mu:
	p       *Process
	killed  bool // the present process was killed by us
	stopped bool
	down    chan struct{} // closed when it may be started again; nil: at once
	exits   []Exit        // ends that nobody asked for

	done chan struct{}
	quit chan struct{} // closed: it is not to be started again
}

// Keep starts a program and keeps it running until stop.
func Keep(r *Rig, cmd Command) (*Keeper, error) {
	p, err := r.Start(cmd)
	if err != nil {
		return nil, err
	}
	k := &Keeper{rig: r, cmd: cmd, p: p, done: make(chan struct{}), quit: make(chan struct{})}
	go k.run()
	r.Defer("stop keeping "+cmd.Name, func() error { k.halt(); return nil })
	return k, nil
}

// run starts the program again whenever it has ended.
func (k *Keeper) run() {
	defer close(k.done)
	for {
		k.mu.Lock()
		p := k.p
		k.mu.Unlock()
		<-p.Done()
		k.mu.Lock()
		stopped, killed, down := k.stopped, k.killed, k.down
		if !stopped && !killed {
			k.exits = append(k.exits, Exit{p.ExitCode(), fmt.Sprintf("%s, code %d: %s", k.cmd.Name, p.ExitCode(), p.Tail(1))})
		}
		k.mu.Unlock()
		if stopped {
			return
		}
		if down != nil {
			select {
			case <-down:
			case <-k.quit:
				return
			}
		}
		if !killed {
			time.Sleep(restartAfter)
		}
		if !k.again(down) {
			return
		}
	}
}

// again starts the program, unless it was taken down anew since down was looked at.
func (k *Keeper) again(down chan struct{}) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.stopped:
		return false
	case k.down != down:
		return true
	}
	p, err := k.rig.Start(k.cmd)
	if err != nil {
		k.exits = append(k.exits, Exit{-1, err.Error()})
		return false
	}
	k.p, k.killed, k.down = p, false, nil
	return true
}

// Kill sends SIGKILL to the program, whatever it does at the moment.
func (k *Keeper) Kill() error {
	k.mu.Lock()
	k.killed = true
	p := k.p
	k.mu.Unlock()
	return p.Kill()
}

// Down kills the program like Kill, but it is not started again before up is called.
func (k *Keeper) Down() (up func(), err error) {
	down := make(chan struct{})
	k.mu.Lock()
	k.killed, k.down = true, down
	p := k.p
	k.mu.Unlock()
	return sync.OnceFunc(func() { close(down) }), p.Kill()
}

// Stop ends the program cleanly.
func (k *Keeper) Stop() error {
	k.mu.Lock()
	k.end()
	p := k.p
	k.mu.Unlock()
	err := p.Stop(time.Minute)
	<-k.done
	if code := p.ExitCode(); err == nil && code != 0 {
		err = fmt.Errorf("%s ended with code %d when it was asked to stop; its last words: %s", k.cmd.Name, code, p.Tail(2))
	}
	return err
}

// end says that it is not to be started again. mu is held.
func (k *Keeper) end() {
	if !k.stopped {
		k.stopped = true
		close(k.quit)
	}
}

// halt ends it in any way.
func (k *Keeper) halt() {
	k.mu.Lock()
	k.end()
	p := k.p
	k.mu.Unlock()
	_ = p.Kill()
	<-k.done
}

// Ends lists how the program ended when nobody had asked for it.
func (k *Keeper) Ends() []Exit {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.exits)
}

// Alive says why the program cannot be kept running.
func (k *Keeper) Alive() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.exits) > 100 {
		return errors.New(k.cmd.Name + " ends again and again: " + k.exits[len(k.exits)-1].Text)
	}
	return nil
}

// Words are the program's last words.
func (k *Keeper) Words() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.p.Tail(2)
}

// Restart ends the program cleanly and starts it again, as an upgrade does.
func (k *Keeper) Restart(patience time.Duration) error {
	k.mu.Lock()
	k.killed = true
	p := k.p
	k.mu.Unlock()
	return p.Stop(patience)
}

// Pause stops the program for a while, as a host that does not get the processor does.
// It goes on when the time is over, also if ctx ends before.
func (k *Keeper) Pause(ctx context.Context, d time.Duration) error {
	k.mu.Lock()
	p := k.p
	k.mu.Unlock()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause %s: %w", k.cmd.Name, err)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("let %s go on: %w", k.cmd.Name, err)
	}
	return context.Cause(ctx)
}
