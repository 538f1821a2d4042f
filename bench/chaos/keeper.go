package chaos

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

// restartAfter is how long a service manager waits before it starts a service again.
const restartAfter = 200 * time.Millisecond

// exit is how a program ended.
type exit struct {
	code int
	text string
}

// excused are the agent's exit codes for what a kill brings about and a service
// manager's next start cures: the disk is held, the server is away.
var excused = []int{5, 6}

// keeper keeps one program running, as a service manager does.
type keeper struct {
	rig *rig.Rig
	cmd rig.Command

	mu sync.Mutex
	// guarded by mu:
	p       *rig.Process
	killed  bool // the present process was killed by us
	stopped bool
	exits   []exit // ends that nobody asked for

	done chan struct{}
}

// keep starts a program and keeps it running until stop.
func keep(r *rig.Rig, cmd rig.Command) (*keeper, error) {
	p, err := r.Start(cmd)
	if err != nil {
		return nil, err
	}
	k := &keeper{rig: r, cmd: cmd, p: p, done: make(chan struct{})}
	go k.run()
	r.Defer("stop keeping "+cmd.Name, func() error { k.halt(); return nil })
	return k, nil
}

// run starts the program again whenever it has ended.
func (k *keeper) run() {
	defer close(k.done)
	for {
		k.mu.Lock()
		p := k.p
		k.mu.Unlock()
		<-p.Done()
		k.mu.Lock()
		stopped, killed := k.stopped, k.killed
		if !stopped && !killed {
			k.exits = append(k.exits, exit{p.ExitCode(), fmt.Sprintf("%s, code %d: %s", k.cmd.Name, p.ExitCode(), p.Tail(1))})
		}
		k.mu.Unlock()
		if stopped {
			return
		}
		if !killed {
			time.Sleep(restartAfter)
		}
		if !k.again() {
			return
		}
	}
}

func (k *keeper) again() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped {
		return false
	}
	p, err := k.rig.Start(k.cmd)
	if err != nil {
		k.exits = append(k.exits, exit{-1, err.Error()})
		return false
	}
	k.p, k.killed = p, false
	return true
}

// kill sends SIGKILL to the program, whatever it does at the moment.
func (k *keeper) kill() error {
	k.mu.Lock()
	k.killed = true
	p := k.p
	k.mu.Unlock()
	return p.Kill()
}

// stop ends the program cleanly.
func (k *keeper) stop() error {
	k.mu.Lock()
	k.stopped = true
	p := k.p
	k.mu.Unlock()
	err := p.Stop(time.Minute)
	<-k.done
	if code := p.ExitCode(); err == nil && code != 0 {
		err = fmt.Errorf("%s ended with code %d when it was asked to stop; its last words: %s", k.cmd.Name, code, p.Tail(2))
	}
	return err
}

// halt ends it in any way.
func (k *keeper) halt() {
	k.mu.Lock()
	k.stopped = true
	p := k.p
	k.mu.Unlock()
	_ = p.Kill()
	<-k.done
}

// ends lists how the program ended when nobody had asked for it.
func (k *keeper) ends() []exit {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.exits)
}

// alive says why the program cannot be kept running.
func (k *keeper) alive() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.exits) > 100 {
		return errors.New(k.cmd.Name + " ends again and again: " + k.exits[len(k.exits)-1].text)
	}
	return nil
}

// words are the program's last words.
func (k *keeper) words() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.p.Tail(2)
}
