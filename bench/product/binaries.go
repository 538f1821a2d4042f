package product

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/bench/rig"
)

// Binaries are the programs under test.
type Binaries struct {
	Leeward string
	Agent   string
}

// Find checks that both programs are there.
func Find(leeward, agent string) (Binaries, error) {
	var b Binaries
	for _, p := range []struct{ to, from *string }{{&b.Leeward, &leeward}, {&b.Agent, &agent}} {
		abs, err := filepath.Abs(*p.from)
		if err != nil {
			return b, err
		}
		if _, err := os.Stat(abs); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("there is no %s: make it with `make build`, or name it by flag", *p.from)
			}
			return b, err
		}
		*p.to = abs
	}
	return b, nil
}

// Up is the command line of an appliance in dir that listens on address.
func (b Binaries) Up(dir, address string) rig.Command {
	return rig.Command{Name: "appliance", Argv: []string{b.Leeward, "up", "--dir", dir, "--listen", address, "--log-format", "json"}}
}

// Forget makes the kernel forget, when the rig is closed, what it recorded for agents
// with a state directory. Call it before the agent is started.
func Forget(r *rig.Rig, stateDir string) {
	r.Defer("forget what was recorded", func() error { _, err := trace.Forget(stateDir, "", false); return err })
}

// Protection says what an agent does.
type Protection struct {
	Site        string // directory of the appliance
	Machine     string
	Disk        string // path
	Name        string // of the disk
	Capture     string
	Interval    time.Duration
	FreezeLimit time.Duration // 0: the agent's default
	FreezeBytes int64         // 0: the agent's default
	StateDir    string
}

// Protect is the command line of an agent.
func (b Binaries) Protect(p Protection) rig.Command {
	argv := []string{
		b.Agent, "run", "--context", Context(p.Site, "agent"), "--machine", p.Machine, "--disk", p.Disk + "=" + p.Name,
		"--capture", p.Capture, "--interval", p.Interval.String(), "--state-dir", p.StateDir,
	}
	if p.FreezeLimit > 0 {
		argv = append(argv, "--freeze-limit", p.FreezeLimit.String())
	}
	if p.FreezeBytes > 0 {
		argv = append(argv, "--freeze-bytes", fmt.Sprint(p.FreezeBytes))
	}
	return rig.Command{Name: "agent", Argv: argv}
}

// Context is the connection file of a role below an appliance's directory.
func Context(dir, role string) string { return filepath.Join(dir, "contexts", role+".json") }

// Key is the vault's key file below an appliance's directory.
func Key(dir string) string { return filepath.Join(dir, "keys", "vault.key") }

// Vault is the vault's directory below an appliance's.
func Vault(dir string) string { return filepath.Join(dir, "vault") }

// FreeAddress returns a loopback address that nobody listens on. It may be left and taken
// again: it is below the ports that a kernel gives to whoever connects, where another's
// connection, or one to the address itself while nobody is there, could take it.
func FreeAddress() (string, error) {
	for tries := 0; ; tries++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.IntN(20000))))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
		if tries == 1000 {
			return "", fmt.Errorf("find a free port: %w", err)
		}
	}
}
