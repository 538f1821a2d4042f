package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/nbd"
)

// lockFD is where a keeper inherits its lock.
const lockFD = 3

// stopTime is what a machine gets to power off when the keeper itself is told to end.
const stopTime = 30 * time.Second

// Opener makes of a specification what is to be brought up and where. done closes what
// it opened.
type Opener func(ctx context.Context, spec json.RawMessage) (t target.Target, m *target.Machine, done func(), err error)

// Doer is a target.Running that can do more than that: what it is asked for, and says, is
// for the Opener and the one who asks to agree on.
type Doer interface {
	Do(ctx context.Context, what string, in json.RawMessage) (out json.RawMessage, err error)
}

// keeper is the process that keeps a machine.
type keeper struct {
	log     *slog.Logger
	up      chan struct{} // closed when running or failed is set
	running target.Running
	failed  error

	stop sync.Once
	end  chan struct{} // closed when the keeper is to end
}

// Keep is what the keeper's process does, until it is asked to stop or ctx ends: it
// reads the specification of a machine from in and keeps that machine in dir. Only
// Start can start it.
func Keep(ctx context.Context, dir string, in io.Reader, open Opener, log *slog.Logger) (err error) {
	lock, err := inherit(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	var spec json.RawMessage
	// Nothing is started before all of it is there: who starts a keeper may end anywhere.
	if err := decode(in, &spec); err != nil {
		return fmt.Errorf("read what to bring up: %w", err)
	}
	s := &state{PID: os.Getpid()}
	if s.Start, err = began(s.PID); err != nil {
		return err
	}
	if err := s.write(dir); err != nil {
		return fmt.Errorf("write %s: %w", stateFile, err)
	}
	defer func() {
		if err != nil {
			s.Failed = err.Error()
			err = errors.Join(err, s.write(dir))
		}
	}()
	// One that was killed here left it; who has the lock may remove it.
	if err := os.Remove(filepath.Join(dir, socketFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := nbd.Listen(dir, socketFile)
	if err != nil {
		return err
	}
	k := &keeper{log: log, up: make(chan struct{}), end: make(chan struct{})}
	talk, hush := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer hush()
	wg.Go(func() { k.serve(talk, l) })

	t, m, done, err := open(ctx, spec)
	if err != nil {
		return err
	}
	defer done()
	k.running, err = t.Start(ctx, m, dir)
	close(k.up)
	if err != nil {
		return err
	}
	log.Info("the machine was started", "machine", m.Name, "target", t.Name())
	select {
	case <-k.end:
	case <-ctx.Done():
		log.Info("the keeper was told to end, the machine is stopped")
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	return k.running.Stop(grace) // it was, if that was asked for: then this says how
}

// inherit takes over the lock that Start took.
func inherit(dir string) (*os.File, error) {
	syscall.CloseOnExec(lockFD)
	f := os.NewFile(lockFD, lockFile)
	mine, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Stat(filepath.Join(dir, lockFile)); err == nil && !os.SameFile(mine, there) {
			err = errors.New("another file")
		}
	}
	if err == nil {
		err = syscall.Flock(lockFD, syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		return nil, fmt.Errorf("no lock was inherited, so nobody asked for a machine here; control starts keepers, not people: %w", err)
	}
	return f, nil
}

// serve answers until ctx ends.
func (k *keeper) serve(ctx context.Context, l net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer hangUpListener(ctx, l)()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() == nil {
				k.log.Error("the keeper no longer answers", "err", err)
			}
			return
		}
		wg.Go(func() {
			defer c.Close()
			defer hangUp(ctx, c)()
			k.converse(ctx, c)
		})
	}
}

func hangUpListener(ctx context.Context, l net.Listener) (done func()) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	return func() {
		stop()
		l.Close()
	}
}

// askTime is how long a question may take to arrive, and an answer to be taken.
const askTime = 10 * time.Second

// converse answers one question. Who hangs up no longer wants the answer.
func (k *keeper) converse(ctx context.Context, c net.Conn) {
	var q question
	c.SetReadDeadline(time.Now().Add(askTime))
	if err := decode(c, &q); err != nil {
		k.log.Warn("a question was not understood", "err", err)
		return
	}
	c.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, c) // ends when the other end does, or when we hang up
	}()
	a := k.answer(ctx, &q)
	// A keeper that ends answers by ending: what was cut short is no answer.
	if ctx.Err() == nil {
		c.SetWriteDeadline(time.Now().Add(askTime))
		if err := json.NewEncoder(c).Encode(a); err != nil {
			k.log.Info("an answer was not wanted any more", "ask", q.Ask, "err", err)
		}
	}
	if q.Ask == askStop {
		k.stop.Do(func() { close(k.end) })
	}
}

func (k *keeper) answer(ctx context.Context, q *question) (a answer) {
	select {
	case <-k.up:
	case <-ctx.Done():
		return answer{Error: "the machine was not started yet"}
	}
	if k.running == nil {
		return answer{Error: "the machine could not be started"} // keeper.json says why
	}
	var err error
	switch q.Ask {
	case askUp:
	case askProbe:
		if q.Probe == nil {
			return answer{Error: "a probe without a probe"}
		}
		a.Result, err = k.running.Probe(ctx, *q.Probe)
	case askWait:
		err = k.running.Wait(ctx)
	case askStop:
		grace, cancel := context.WithTimeout(ctx, q.Grace)
		defer cancel()
		err = k.running.Stop(grace)
	case askDo:
		d, ok := k.running.(Doer)
		if !ok {
			return answer{Error: fmt.Sprintf("this machine cannot %q", q.What)}
		}
		a.Out, err = d.Do(ctx, q.What, q.In)
	default:
		err = fmt.Errorf("a keeper cannot %q", q.Ask)
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}
