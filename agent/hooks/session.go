package hooks

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// order is what the agent tells the keeper, one line of JSON.
type order struct {
	Hooks   []Hook        `json:"hooks"`
	Machine string        `json:"machine"`
	Session string        `json:"session"`
	Dir     string        `json:"dir"`
	Pre     time.Duration `json:"pre"`
	Post    time.Duration `json:"post"`
	Hold    time.Duration `json:"hold"`
}

// answer is what the keeper tells the agent, one line of JSON for each step.
type answer struct {
	State string `json:"state"` // "ready", "failed" (pre, all is let go), "ended"
	Error string `json:"error,omitempty"`
	Late  bool   `json:"late,omitempty"` // let go before the agent said so
}

// maxAnswer bounds a line from the keeper.
const maxAnswer = 64 << 10

// Session is a set of applications that are ready for a cut. End must be called.
type Session struct {
	opt     Options
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan answer // closed when the keeper is gone
	dir     string
	ended   bool
}

// Begin makes every application ready. On any error all of them were let go again,
// as far as that could be done: an error that is also ErrPost says where not.
func Begin(ctx context.Context, o Options) (*Session, error) {
	s := &Session{opt: o.withDefaults(), answers: make(chan answer, 2)}
	id := strings.ToLower(rand.Text()[:12])
	s.dir = filepath.Join(s.opt.Dir, "hooks-"+id)
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the hooks' directory: %w", err)
	}
	if err := s.start(order{s.opt.Hooks, s.opt.Machine, id, s.dir, s.opt.PreTimeout, s.opt.PostTimeout, s.opt.Hold}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	limit := s.limit(s.opt.PreTimeout + s.opt.PostTimeout)
	select {
	case a, ok := <-s.answers:
		if ok && a.State == "ready" {
			return s, nil
		}
		return nil, s.failed(a, ok)
	case <-ctx.Done():
		s.leave() // the keeper lets go and ends
		return nil, context.Cause(ctx)
	case <-time.After(limit):
		s.leave()
		return nil, fmt.Errorf("%w: it has not answered within %v", ErrKeeper, limit)
	}
}

// limit is how long the keeper may take for every hook at each.
func (s *Session) limit(each time.Duration) time.Duration {
	return time.Duration(len(s.opt.Hooks))*(each+2*grace) + 10*time.Second
}

func (s *Session) start(o order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	s.cmd = exec.Command(s.opt.KeeperCommand[0], s.opt.KeeperCommand[1:]...)
	s.cmd.Dir = "/"
	s.cmd.Stderr = nil
	ownSession(s.cmd)
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return fmt.Errorf("%w: %w", ErrKeeper, err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeeper, err)
	}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("%w: start %s: %w", ErrKeeper, s.opt.KeeperCommand[0], err)
	}
	go func() {
		defer close(s.answers)
		r := bufio.NewReaderSize(io.LimitReader(out, 4*maxAnswer), maxAnswer)
		for {
			b, err := r.ReadSlice('\n')
			var a answer
			if err != nil || json.Unmarshal(b, &a) != nil {
				break
			}
			s.answers <- a
			if a.State != "ready" {
				break
			}
		}
		_ = s.cmd.Wait()
		_ = os.RemoveAll(s.dir)
	}()
	if _, err := s.in.Write(append(line, '\n')); err != nil {
		s.leave()
		return fmt.Errorf("%w: %w", ErrKeeper, err)
	}
	return nil
}

func (s *Session) failed(a answer, ok bool) error {
	s.leave()
	if !ok {
		return fmt.Errorf("%w: it ended without an answer", ErrKeeper)
	}
	return fmt.Errorf("%w: %s", ErrPre, a.Error)
}

// leave closes the keeper's input: whatever it holds, it lets go and ends.
func (s *Session) leave() {
	s.ended = true
	_ = s.in.Close()
}

// End lets the applications go on. Call it after the cut, whatever became of it. nil
// means that they held until now; with ErrLate they did not, with ErrPost one of
// them may still wait for somebody.
func (s *Session) End() error {
	if s.ended {
		return errors.New("end of hooks: called twice")
	}
	_, err := io.WriteString(s.in, "end\n")
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrKeeper, err)
	}
	s.leave()
	limit := s.limit(s.opt.PostTimeout)
	select {
	case a, ok := <-s.answers:
		if !ok {
			return errors.Join(err, fmt.Errorf("%w: it ended without an answer", ErrKeeper))
		}
		err = nil // it has read what it was told, or was done before
		if a.Error != "" {
			err = fmt.Errorf("%w: %s", ErrPost, a.Error)
		}
		if a.Late {
			err = errors.Join(fmt.Errorf("%w (%v)", ErrLate, s.opt.Hold), err)
		}
		return err
	case <-time.After(limit):
		return fmt.Errorf("%w: %w: it has not answered within %v", ErrPost, ErrKeeper, limit)
	}
}
