package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// errEnded is that of a QEMU that ended before its guest began.
var errEnded = errors.New("QEMU ended")

// process is a running QEMU.
type process struct {
	cmd    *exec.Cmd
	log    string        // file with what it says
	done   chan struct{} // closed when it has ended
	err    error         // how; read after done
	qmp    net.Conn
	serial net.Conn
}

// launch starts QEMU in dir, which inherits more files behind its lines. It is killed when
// this process dies.
func launch(binary string, args []string, dir string, more ...*os.File) (*process, error) {
	p := &process{log: filepath.Join(dir, qemuFile), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	var theirs [2]*os.File
	for i, ours := range []*net.Conn{&p.qmp, &p.serial} {
		if *ours, theirs[i], err = pair(); err != nil {
			p.hangUp()
			return nil, err
		}
		defer theirs[i].Close()
	}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.ExtraFiles = append(theirs[:], more...) // qmpFD, serialFD, tapFD
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		p.hangUp()
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	return p, nil
}

// run starts the process and waits for it on a thread of its own: the kernel kills
// the child when the thread that made it ends, not when the process does.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
	}
	close(p.done)
}

// hangUp closes our ends of the process's lines.
func (p *process) hangUp() {
	for _, c := range []net.Conn{p.qmp, p.serial} {
		if c != nil {
			c.Close()
		}
	}
}

// kill ends the process and waits for it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// said returns the last line QEMU wrote, which tells why it ended.
func (p *process) said() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// failure describes an end that nobody asked for.
func (p *process) failure() error {
	if s := p.said(); s != "" {
		return fmt.Errorf("%w (%v): %s", errEnded, p.cmd.ProcessState, s)
	}
	return fmt.Errorf("%w: %v", errEnded, p.cmd.ProcessState)
}

// pair returns the two ends of a line, ours and one to be inherited.
func pair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "line")
	defer mine.Close() // FileConn has its own
	theirs = os.NewFile(uintptr(fds[1]), "line")
	if ours, err = net.FileConn(mine); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}
