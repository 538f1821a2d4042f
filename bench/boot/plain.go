package boot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/failover"
)

var diskID = vault.DiskID{Machine: machine, Disk: diskName}

// command is how the product started QEMU for a job that is alive.
func command(j *failover.Job) ([]string, error) {
	if j.Directory == "" { // any QEMU of this machine would do
		return nil, fmt.Errorf("job %s has no directory yet", j.ID)
	}
	all, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return nil, err
	}
	for _, link := range all {
		at, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(at, j.Directory) {
			continue // another's, or gone
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(link), "cmdline"))
		if err != nil {
			continue
		}
		argv := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
		if strings.Contains(filepath.Base(argv[0]), "qemu-system") {
			return argv, nil
		}
	}
	return nil, fmt.Errorf("no QEMU runs in %s", j.Directory)
}

// started waits until a job's QEMU runs, and learns its command line.
func (t *trial) started(ctx context.Context, id string) ([]string, error) {
	for {
		j, err := t.site.API.Job(ctx, id)
		if err != nil {
			return nil, err
		}
		if argv, err := t.learn(j); err == nil || !j.State.Running() {
			return argv, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// learn returns the command line of the product for a job, with the disk as a file.
func (t *trial) learn(j *failover.Job) ([]string, error) {
	argv, err := command(j)
	if err != nil {
		return nil, err
	}
	file, err := json.Marshal(map[string]any{
		"driver": "raw", "node-name": "disk0", "discard": "unmap", "detect-zeroes": "on",
		"file": map[string]any{"driver": "file", "filename": "disk.img", "discard": "unmap"},
	})
	if err != nil {
		return nil, err
	}
	found := false
	for i, a := range argv {
		if strings.Contains(a, `"driver":"nbd"`) {
			argv[i], found = string(file), true
		}
	}
	if !found {
		return nil, errors.New("the product's QEMU reads no disk over NBD: there is nothing to compare")
	}
	t.res.Accel = "tcg"
	if slices.ContainsFunc(argv, func(a string) bool { return strings.Contains(a, "kvm") }) {
		t.res.Accel = "kvm"
	}
	return argv, nil
}

// file boots the point from a raw file. The product's command line must be known.
func (t *trial) file(ctx context.Context, point, mark string) (b Boot, err error) {
	if t.argv == nil { // the first pair begins with the vault, see Run
		return b, errors.New("the product's command line is not known yet")
	}
	dir, err := t.plain(ctx, point)
	if err == nil {
		err = t.cold()
	}
	if err != nil {
		return b, err
	}
	return t.bootFile(ctx, t.argv, dir, mark, nil)
}

// plain writes a point to disk.img in a directory of its own.
func (t *trial) plain(ctx context.Context, point string) (dir string, err error) {
	image, err := t.restored(ctx, point)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(t.rig.Dir, "plain")
	if err := os.RemoveAll(dir); err != nil { // made by the boot before
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return dir, os.Rename(image, filepath.Join(dir, "disk.img"))
}

func (t *trial) bootFile(ctx context.Context, argv []string, dir, mark string, hold func()) (Boot, error) {
	ctx, cancel := context.WithTimeout(ctx, t.o.Limit)
	defer cancel()
	return boot(ctx, argv, dir, regexp.MustCompile(t.proof(mark)), hold)
}

// boot starts QEMU in dir and waits for the proof, and then for hold, if that is not nil.
func boot(ctx context.Context, argv []string, dir string, proof *regexp.Regexp, hold func()) (b Boot, err error) {
	runtime.LockOSThread() // the child dies with the thread that made it
	defer runtime.UnlockOSThread()
	qmp, qmpEnd, err := pair()
	if err != nil {
		return b, err
	}
	defer qmp.Close()
	serial, serialEnd, err := pair()
	if err != nil {
		return b, errors.Join(err, qmpEnd.Close())
	}
	defer serial.Close()
	began := time.Now()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var said bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.ExtraFiles = []*os.File{qmpEnd, serialEnd}
	// In a session of its own, as the product's is in that of its keeper: a kernel that gives
	// each session its share of the CPUs gives both the same.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Start()
	if e := errors.Join(qmpEnd.Close(), serialEnd.Close()); err == nil {
		err = e
	}
	if err != nil {
		return b, err
	}
	defer func() {
		_ = cmd.Process.Kill() // a machine in the middle of its work
		_ = cmd.Wait()
		if err != nil && said.Len() > 0 {
			err = fmt.Errorf("%w: %s", err, said.String())
		}
	}()
	if _, err := qmp.Write([]byte(`{"execute":"qmp_capabilities"}` + "\n" + `{"execute":"cont"}` + "\n")); err != nil {
		return b, err
	}
	if d, ok := ctx.Deadline(); ok {
		if err := serial.SetReadDeadline(d); err != nil {
			return b, err
		}
	}
	var text []byte
	buf := make([]byte, 4096)
	for {
		n, err := serial.Read(buf)
		text = append(text, buf[:n]...)
		if b.First == 0 && word(text) {
			b.First = time.Since(began).Seconds()
		}
		if proof.Match(escapes.ReplaceAll(text, nil)) {
			b.Alive, b.CPU = time.Since(began).Seconds(), rig.CPUOf(cmd.Process.Pid).Seconds()
			if hold != nil {
				hold()
			}
			return b, nil
		}
		if err != nil {
			return b, fmt.Errorf("from a file it does not say %s: %w; its last words: %.300s", proof, err, text[max(0, len(text)-300):])
		}
	}
}

// escapes are what terminals are told besides text, as the product leaves them out.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78cDEHM]|(\[[0-9;?]*|[()])?$)`)

func word(text []byte) bool {
	return strings.ContainsFunc(string(escapes.ReplaceAll(text, nil)), func(r rune) bool { return r > ' ' && r != 0x7f && r != 0xfffd })
}

func pair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	mine := os.NewFile(uintptr(fds[0]), "line")
	defer mine.Close() // FileConn has its own
	theirs = os.NewFile(uintptr(fds[1]), "line")
	if ours, err = net.FileConn(mine); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}
