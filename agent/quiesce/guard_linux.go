package quiesce

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// GuardFD is the descriptor on which the guard finds its socket to the agent.
const GuardFD = 3

// retryThaw is how often the guard tries again while it is not told that all is
// well: a freeze that was still under way when the bound was over ends frozen.
const retryThaw = 25 * time.Millisecond

// GuardMain is the guard's whole life: it waits to be armed, thaws everything that
// it was given when the time is over or the agent's end of the socket closes, and
// returns the exit code when the agent is gone. It opens no file and writes none.
func GuardMain() int { return guardOn(GuardFD) }

func guardOn(fd int) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	unix.CloseOnExec(fd)
	hardenGuard()
	if err := send(fd, message{verb: sayReady}); err != nil {
		fmt.Fprintln(os.Stderr, "leeward guard: this command is started by the agent, not by hand")
		return 2
	}
	g := &guard{fd: fd}
	return g.run()
}

// hardenGuard keeps the guard in memory and alive; what is not permitted is done
// without.
func hardenGuard() {
	_ = lockProgram()
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	_ = os.Chdir("/")
}

type guard struct {
	fd       int
	number   uint64
	charges  []*charge
	deadline time.Time // zero if not armed
}

// charge is a filesystem in the guard's care.
type charge struct {
	fd   int
	busy atomic.Bool
	wg   sync.WaitGroup
}

// thaw tries to thaw in a goroutine: the kernel may make it wait. A try that is
// still waiting is enough.
func (c *charge) thaw() {
	if !c.busy.CompareAndSwap(false, true) {
		return
	}
	c.wg.Go(func() {
		_ = thawFD(c.fd)
		c.busy.Store(false)
	})
}

func (g *guard) run() int {
	for {
		ready, err := g.wait()
		if err != nil {
			return g.end(1)
		}
		if !ready {
			g.thawAll()
			g.deadline = time.Now().Add(retryThaw)
			continue
		}
		m, err := receive(g.fd)
		if errors.Is(err, io.EOF) {
			return g.end(0)
		}
		if err != nil || g.handle(m) != nil {
			return g.end(1)
		}
	}
}

// wait waits for a message; false means that the deadline is over.
func (g *guard) wait() (bool, error) {
	for {
		timeout := -1
		if !g.deadline.IsZero() {
			left := time.Until(g.deadline)
			if left <= 0 {
				return false, nil
			}
			timeout = int((left + time.Millisecond - 1) / time.Millisecond)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(g.fd), Events: unix.POLLIN}}, timeout)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, err
		case n > 0:
			return true, nil
		}
	}
}

func (g *guard) handle(m message) error {
	switch m.verb {
	case sayArm:
		g.release()
		g.number, g.deadline = m.number, time.Now().Add(m.bound)
		for _, fd := range m.fds {
			g.charges = append(g.charges, &charge{fd: fd})
		}
		return send(g.fd, message{verb: sayArmed, number: m.number})
	case sayDisarm:
		g.release()
		return send(g.fd, message{verb: saySafe, number: m.number})
	default:
		return fmt.Errorf("unknown message %q", byte(m.verb))
	}
}

func (g *guard) thawAll() {
	for _, c := range g.charges {
		c.thaw()
	}
}

// release forgets what is in the guard's care.
func (g *guard) release() {
	for _, c := range g.charges {
		c.wg.Wait()
		_ = unix.Close(c.fd)
	}
	g.charges, g.deadline = nil, time.Time{}
}

// end thaws what is left and returns code. The agent is gone, so no freeze is
// under way any more and one try is enough.
func (g *guard) end(code int) int {
	for _, c := range g.charges {
		c.wg.Wait()
	}
	g.thawAll()
	g.release()
	return code
}
