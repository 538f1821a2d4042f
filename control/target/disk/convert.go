package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/nbd"
	"github.com/leeward-dr/leeward/control/target/overlay"
)

// convert has qemu-img write name in dir, in a format of its own, reading the disk
// from a server here, and verifies the result. dir is the working directory of all,
// so that paths of sockets are short wherever it is.
func convert(ctx context.Context, d target.Restorer, dir, name string, o Options) error {
	stop, err := serveDisk(ctx, d, dir, o.Progress)
	if err != nil {
		return err
	}
	err = tool(ctx, dir, "qemu-img", "convert", "-f", "raw", "-O", string(o.Format), "nbd+unix:///disk?socket="+sourceSocket, "./"+name)
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	return compareConverted(ctx, d, dir, name, o)
}

// tool runs a program that ends by itself.
func tool(ctx context.Context, dir string, argv ...string) error {
	var said strings.Builder
	// The kernel ends a child with the thread that made it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := command(ctx, dir, argv, &said)
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s: %w: %s", argv[0], err, lastLine(said.String()))
	}
	return nil
}

func command(ctx context.Context, dir string, argv []string, said io.Writer) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// serveDisk serves d, read-only, on the socket in dir until stop.
func serveDisk(ctx context.Context, d target.Restorer, dir string, progress target.Progress) (stop func() error, err error) {
	o, err := overlay.New(d, filepath.Join(dir, "never-written"))
	if err != nil {
		return nil, err
	}
	s, err := nbd.NewServer(nil, nbd.Config{Name: "disk", Export: counted(o, d, progress), ReadOnly: true})
	if err != nil {
		return nil, err
	}
	l, err := nbd.Listen(dir, sourceSocket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	return func() error { cancel(); return <-served }, nil
}

// counting is an export that tells how much of a disk has been read.
type counting struct {
	*overlay.Overlay
	mu    sync.Mutex
	done  int64
	total int64
	tell  func(done, total int64)
}

func counted(o *overlay.Overlay, d target.Disk, progress target.Progress) *counting {
	c := &counting{Overlay: o, tell: func(done, total int64) { progress("convert "+d.Name(), done, total) }}
	d.Extents(func(_, length int64) bool { c.total += length; return true })
	return c
}

// ReadAt reads and tells.
func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Overlay.ReadAt(p, off)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += int64(n)
	c.tell(min(c.done, c.total), c.total) // some is read twice, such as what tells the format
	return n, err
}

// compareConverted reads name back through qemu-nbd, which knows its format.
func compareConverted(ctx context.Context, d target.Restorer, dir, name string, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		// qemu-nbd wants an absolute path, and this one is short.
		ended <- tool(ctx, dir, "qemu-nbd", "-r", "-t", "-f", string(o.Format), "-k", "/proc/self/cwd/"+resultSocket, "./"+name)
	}()
	c, err := dialSoon(ctx, dir, ended)
	if err != nil {
		cancel()
		return fmt.Errorf("read back %s: %w", name, err)
	}
	err = compare(ctx, d, c, d.Size(), o.Progress)
	if err == nil && c.Size() != d.Size() {
		err = fmt.Errorf("verify: %s has %d bytes, the disk %d", name, c.Size(), d.Size())
	}
	err = errors.Join(err, c.Close())
	cancel()
	<-ended
	return err
}

// How long a server may take to listen.
const (
	dialTime  = 30 * time.Second
	dialAgain = 20 * time.Millisecond
)

// dialSoon connects to a server that was just started; ended gets a value when it
// ends.
func dialSoon(ctx context.Context, dir string, ended chan error) (*nbd.Client, error) {
	tick := time.NewTicker(dialAgain)
	defer tick.Stop()
	deadline := time.Now().Add(dialTime)
	for {
		c, err := nbd.Dial(ctx, dir, resultSocket, "")
		if err == nil || time.Now().After(deadline) {
			return c, err
		}
		select {
		case err := <-ended:
			ended <- err
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
