package quiesce

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watcher is the agent's end of a guard process.
type watcher struct {
	cmd    *exec.Cmd
	fd     int
	number uint64
	gone   chan struct{} // closed when the process was waited for
}

// guardPatience is how long a guard may take to answer.
const guardPatience = 5 * time.Second

// startGuard starts a guard and waits until it is up.
func startGuard(command []string) (*watcher, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoGuard, err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "guard")
	w := &watcher{fd: pair[0], gone: make(chan struct{}), cmd: exec.Command(command[0], command[1:]...)}
	w.cmd.ExtraFiles = []*os.File{theirs} // becomes GuardFD
	if command[0] == ownProgram {
		w.cmd.Args[0] = os.Args[0] // what people see in ps
	}
	w.cmd.Dir = "/"
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = w.cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = unix.Close(w.fd)
		return nil, fmt.Errorf("%w: start %s: %w", ErrNoGuard, command[0], err)
	}
	go func() {
		defer close(w.gone)
		_ = w.cmd.Wait()
	}()
	patience := unix.NsecToTimeval(int64(guardPatience))
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return nil, errors.Join(ErrNoGuard, err, w.stop())
	}
	if err := w.expect(sayReady, 0); err != nil {
		return nil, errors.Join(err, w.stop())
	}
	return w, nil
}

// expect waits for one answer.
func (w *watcher) expect(v verb, number uint64) error {
	m, err := receive(w.fd)
	if err != nil {
		return fmt.Errorf("%w: it does not answer: %w", ErrNoGuard, err)
	}
	closeAll(m.fds)
	if m.verb != v || m.number != number {
		return fmt.Errorf("%w: it answered %q to %d, want %q to %d", ErrNoGuard, byte(m.verb), m.number, byte(v), number)
	}
	return nil
}

// arm puts descriptors into the guard's care for a time.
func (w *watcher) arm(bound time.Duration, fds []int) error {
	w.number++
	if err := send(w.fd, message{verb: sayArm, number: w.number, bound: bound, fds: fds}); err != nil {
		return fmt.Errorf("%w: %w", ErrNoGuard, err)
	}
	return w.expect(sayArmed, w.number)
}

// disarm takes them out of it.
func (w *watcher) disarm() error {
	if err := send(w.fd, message{verb: sayDisarm, number: w.number}); err != nil {
		return fmt.Errorf("%w: %w", ErrNoGuard, err)
	}
	return w.expect(saySafe, w.number)
}

// stop ends the guard by leaving it; one that does not go is killed.
func (w *watcher) stop() error {
	err := unix.Close(w.fd)
	select {
	case <-w.gone:
	case <-time.After(guardPatience):
		err = errors.Join(err, w.cmd.Process.Kill())
		<-w.gone
	}
	return err
}
