package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/control/target"
)

// Files in a machine's directory.
const (
	lockFile   = "keeper.lock"
	socketFile = "keeper.sock"
	stateFile  = "keeper.json"
	logFile    = "keeper.log"
)

// What a keeper can be asked.
const (
	askUp    = "up"    // answers when the machine was started or could not be
	askProbe = "probe" // target.Running.Probe
	askWait  = "wait"  // target.Running.Wait
	askStop  = "stop"  // target.Running.Stop, then the keeper ends
	askDo    = "do"    // Doer.Do
)

// maxTalk bounds a question, an answer and a specification, in bytes.
const maxTalk = 4 << 20

// question is what a keeper is asked.
type question struct {
	Ask   string        `json:"ask"`
	Probe *target.Probe `json:"probe,omitempty"`
	Grace time.Duration `json:"grace,omitempty"` // of stop: for the machine to power off

	What string          `json:"what,omitempty"` // of do
	In   json.RawMessage `json:"in,omitempty"`
}

// answer is what a keeper says.
type answer struct {
	Error  string         `json:"error,omitempty"`
	Result *target.Result `json:"result,omitempty"`

	Out json.RawMessage `json:"out,omitempty"` // of do
}

// decode reads one question or answer.
func decode(r io.Reader, into any) error {
	return json.NewDecoder(io.LimitReader(r, maxTalk)).Decode(into)
}

// state is what keeper.json holds.
type state struct {
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // when the process began, in ticks since the host booted
	Failed string `json:"failed,omitempty"`
}

// write replaces keeper.json.
func (s *state) write(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, stateFile+".new")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, stateFile))
}

func readState(dir string) (*state, error) {
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return nil, err
	}
	s := new(state)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", filepath.Join(dir, stateFile), err)
	}
	return s, nil
}

// began returns when a process began, which with its id makes it the only one ever.
func began(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name of the program stands in brackets and may hold anything.
	_, rest, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat cannot be understood", pid)
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// take locks the keeper's lock, which says that there is no keeper. The file is nil if
// there is one.
func take(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keeper's lock: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
}

// hangUp makes a connection end with ctx; call the result when done.
func hangUp(ctx context.Context, c net.Conn) (done func() bool) {
	return context.AfterFunc(ctx, func() { c.Close() })
}
