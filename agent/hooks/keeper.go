package hooks

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// grace is what a hook has to end by itself after it was asked to.
const grace = 2 * time.Second

// maxOrder bounds what the keeper reads.
const maxOrder = 1 << 20

// maxSaid is how much of a hook's output is kept.
const maxSaid = 2 << 10

// KeeperMain is the keeper's whole life: it reads an order from stdin, runs every
// pre, says so on stdout, and runs every post when it is told to, when stdin ends
// (the agent is gone) or when the hold time is over.
func KeeperMain() int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	return keep(os.Stdin, os.Stdout)
}

func keep(in io.Reader, out io.Writer) int {
	r := bufio.NewReader(io.LimitReader(in, maxOrder))
	line, err := r.ReadBytes('\n')
	var o order
	if err != nil || json.Unmarshal(line, &o) != nil {
		fmt.Fprintln(os.Stderr, "leeward hook keeper: this command is started by the agent, not by hand")
		return 2
	}
	told := make(chan bool, 1) // true: the agent said end; false: it is gone
	go func() {
		line, _ := r.ReadString('\n')
		told <- line == "end\n"
	}()
	say := func(a answer) {
		b, err := json.Marshal(a)
		if err == nil {
			_, _ = out.Write(append(b, '\n'))
		}
	}
	defer os.RemoveAll(o.Dir)
	begun, err := o.ready(told)
	if err != nil {
		err = errors.Join(err, o.post(begun.hooks))
		say(answer{State: "failed", Error: clip(err)})
		return 1
	}
	say(answer{State: "ready"})
	end := answer{State: "ended"}
	select {
	case ok := <-told:
		end.Late = !ok
	case <-begun.over:
		end.Late = true
	}
	if err := o.post(begun.hooks); err != nil {
		end.Error = clip(err)
	}
	say(end)
	return 0
}

// begun says how many hooks are owed a post, and when the hold time is over.
type begun struct {
	hooks int
	over  <-chan time.Time // nil before the first pre is done
}

// ready runs every pre until one fails, the hold time is over, or the agent is gone.
func (o *order) ready(told <-chan bool) (b begun, err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	for _, h := range o.Hooks {
		b.hooks++ // its post is owed from here on
		done := make(chan error, 1)
		go func() { done <- o.run(ctx, h, "pre", o.Pre) }()
		select {
		case err = <-done:
		case <-told:
			cancel(errors.New("the agent is gone"))
			err = <-done
		case <-b.over:
			cancel(fmt.Errorf("others have waited for it for %v", o.Hold))
			err = <-done
		}
		if err = errors.Join(err, context.Cause(ctx)); err != nil {
			return b, err
		}
		if b.over == nil {
			b.over = time.After(o.Hold)
		}
	}
	return b, nil
}

// post runs the posts of the first n hooks, the last one first.
func (o *order) post(n int) error {
	var errs []error
	for i := n - 1; i >= 0; i-- {
		errs = append(errs, o.run(context.Background(), o.Hooks[i], "post", o.Post))
	}
	return errors.Join(errs...)
}

// run runs a hook once.
func (o *order) run(ctx context.Context, h Hook, step string, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %v", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Command[0], append(h.Command[1:len(h.Command):len(h.Command)], step)...)
	cmd.Dir = "/"
	cmd.Env = append(environment(os.Environ()), "LEEWARD_MACHINE="+o.Machine, "LEEWARD_SESSION="+o.Session,
		"LEEWARD_DIR="+o.Dir, fmt.Sprintf("LEEWARD_HOLD=%d", int((o.Hold+time.Second-1)/time.Second)))
	said := &tail{}
	cmd.Stdout, cmd.Stderr = said, said
	// A hook may leave a process behind that holds a session open; its output is not
	// waited for.
	cmd.WaitDelay = grace
	if err := asUser(cmd, h.User, o.Dir); err != nil {
		return fmt.Errorf("hook %s %s: %w", h.Name, step, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	var err error
	select {
	case err = <-done:
	case <-time.After(limit + 2*grace):
		// Not even a kill ended it: it hangs in the kernel. Go on without.
		err = context.DeadlineExceeded
	}
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && cmd.Process != nil {
		killGroup(cmd.Process.Pid)
	}
	return fmt.Errorf("hook %s %s: %w%s", h.Name, step, err, said.text())
}

// environment leaves out what is only the agent's business.
func environment(all []string) []string {
	var env []string
	for _, v := range all {
		if !strings.HasPrefix(v, "LEEWARD_") && !strings.HasPrefix(v, "NOTIFY_SOCKET=") && !strings.HasPrefix(v, "CREDENTIALS_DIRECTORY=") {
			env = append(env, v)
		}
	}
	return env
}

// tail keeps the last bytes written to it.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if over := t.b.Len() + n - maxSaid; over > 0 {
		t.b.Next(min(over, t.b.Len()))
		p = p[max(0, n-maxSaid):]
	}
	t.b.Write(p)
	return n, nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := strings.Join(strings.Fields(strings.ToValidUTF8(t.b.String(), "?")), " ")
	if s == "" {
		return ""
	}
	return ": " + s
}

func clip(err error) string {
	s := strings.ReplaceAll(err.Error(), "\n", "; ")
	return strings.ToValidUTF8(s[:min(len(s), maxSaid)], "?")
}
