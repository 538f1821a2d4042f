package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// DiskConfig is one disk to protect.
type DiskConfig struct {
	Path string // block device or image file
	Name string // name of the disk within the machine
}

// Config is everything the agent can be told.
type Config struct {
	Bus     bus.Options
	Machine string // name of this machine
	Version string // of this program, for people
	Group   string // consistency group; default: a group of its own, named like the machine
	Disks   []DiskConfig
	Pool    streams.Pool // whose process servers handle the changes; default: the pool that is always there

	Capture  string        // "auto", "trace" or "scan"
	Interval time.Duration // between recovery points
	StateDir string        // locks; must not be on a protected disk

	Spool    string // directory for tables of block sums that should not fill memory; "": memory
	ScanRate int64  // bytes a second of each disk that a scan or comparison reads at most; 0: no limit

	FreezeLimit time.Duration // longest time that a filesystem may stay frozen for a point
	FreezeBytes int64         // freeze only when at most so many bytes are left to read
	Rounds      int           // copy rounds before a point at most

	RateBytes   int64  // bytes a second that leave the machine, over all disks; 0: no bound
	WindowBytes int    // encoded bytes on their way to JetStream, each disk
	CompressAt  string // "agent" or "process-server"
	// Instance is the name of a copy of the machine that was made by a failover: only a fence
	// that names it lets the agent write. It takes no lease and claims no disk's identity then.
	Instance string
	TakeOver bool // take the disks from the agent instance that holds them

	Apps AppConfig // what is told to applications before and after a point

	// Progress, if set, is told what happens, for people. It must be quick.
	Progress func(Progress)
	// AtCut, if set, is called after everything was read, while all filesystems are
	// still frozen, with the id the point will have. An error aborts the point. What still
	// returns is an error if a disk was written to since it was read: a trim is not stopped by
	// a freeze, so who looks at a disk here and wants to see what was read asks afterwards.
	AtCut      func(point string, still func(context.Context) error) error
	checkpoint uint64        // bytes between checkpoints of a comparison, for tests
	tryEvery   time.Duration // of a disk that was set aside, for tests
	// GuardCommand starts the freeze guard; default: this executable with "guard".
	GuardCommand []string
}

// Progress is where the replication of a disk stands.
type Progress struct {
	Disk  string
	Phase string // "compare", "round", "point", "waiting", …
	Done  int64  // bytes of the disk looked at in this phase
	Total int64  // bytes to look at
	Sent  uint64 // bytes of changed blocks sent since the agent started
	Text  string
}

// Default is what an agent does unless told otherwise.
func Default() Config {
	return Config{
		Capture: "auto", Interval: 5 * time.Second, StateDir: defaultStateDir(),
		FreezeLimit: 200 * time.Millisecond, FreezeBytes: 4 << 20, Rounds: 8,
		WindowBytes: 8 << 20, CompressAt: "agent", Apps: defaultApps(),
	}
}

// Validate names the first field that cannot work and what to do about it.
func (c Config) Validate() error {
	if err := streams.ValidName("machine", c.Machine); err != nil {
		return err
	}
	if c.Group != "" {
		if err := streams.ValidName("group", c.Group); err != nil {
			return err
		}
	}
	if err := c.Pool.Validate(); err != nil {
		return err
	}
	if len(c.Disks) == 0 {
		return fmt.Errorf("no disk to protect: name at least one with --disk /dev/sdX")
	}
	names, paths := map[string]bool{}, map[string]bool{}
	for _, d := range c.Disks {
		if err := streams.ValidName("disk", d.Name); err != nil {
			return fmt.Errorf("%w (name it yourself: --disk %s=NAME)", err, d.Path)
		}
		if names[d.Name] || paths[d.Path] {
			return fmt.Errorf("disk %s (%s) is named twice", d.Name, d.Path)
		}
		names[d.Name], paths[d.Path] = true, true
	}
	switch {
	case c.Capture != "auto" && c.Capture != "trace" && c.Capture != "scan":
		return fmt.Errorf("capture is %q: use auto, trace or scan", c.Capture)
	case c.CompressAt != "agent" && c.CompressAt != "process-server":
		return fmt.Errorf("compress-at is %q: use agent or process-server", c.CompressAt)
	case c.Interval < 100*time.Millisecond:
		return fmt.Errorf("interval is %v: use at least 100ms", c.Interval)
	case c.FreezeLimit < 10*time.Millisecond || c.FreezeLimit > 10*time.Second:
		return fmt.Errorf("freeze-limit is %v: use 10ms to 10s", c.FreezeLimit)
	case c.FreezeBytes < 64<<10 || c.FreezeBytes > 256<<20:
		return fmt.Errorf("freeze-bytes is %d: use 64 KiB to 256 MiB", c.FreezeBytes)
	case c.Rounds < 1 || c.Rounds > 100:
		return fmt.Errorf("rounds is %d: use 1 to 100", c.Rounds)
	case c.WindowBytes < 1<<20 || c.WindowBytes > 1<<30:
		return fmt.Errorf("window-bytes is %d: use 1 MiB to 1 GiB", c.WindowBytes)
	case c.ScanRate < 0 || c.ScanRate > 0 && c.ScanRate < 1<<20:
		return fmt.Errorf("scan-rate is %d: use 0 for no limit, or at least 1 MiB a second", c.ScanRate)
	case c.StateDir == "":
		return fmt.Errorf("state-dir is empty: name a directory outside the protected disks")
	}
	return c.Apps.validate()
}

// OnDisk before a path means the disk that it is on: of a file system, or a partition.
const OnDisk = "on:"

// ParseDisk reads PATH, PATH=NAME, or NAME=PATH as failback has it: names have no
// slash. Without a name the last part of the path is
// used, "." and other characters that a name cannot have replaced by "-".
func ParseDisk(arg string) (DiskConfig, error) {
	arg, on := strings.CutPrefix(arg, OnDisk)
	path, name, given := strings.Cut(arg, "=")
	if given && !strings.Contains(path, "/") && strings.Contains(name, "/") {
		path, name = name, path
	}
	if path == "" {
		return DiskConfig{}, fmt.Errorf("disk %q has no path: use PATH or PATH=NAME", arg)
	}
	if !given {
		name = path[strings.LastIndexByte(path, '/')+1:]
		name = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
				return r
			}
			return '-'
		}, name)
	}
	d := DiskConfig{Path: path, Name: name}
	if on {
		var err error
		if d.Path, err = disk.On(path); err != nil {
			return DiskConfig{}, err
		}
	}
	return d, streams.ValidName("disk", name)
}

func (c Config) group() string {
	if c.Group != "" {
		return c.Group
	}
	return c.Machine
}

// defaultStateDir is a place that this user may write and that a restart of the
// machine empties: what is in it means nothing to another boot.
func defaultStateDir() string {
	if os.Geteuid() == 0 {
		return "/run/leeward-agent"
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "leeward-agent")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("leeward-agent-%d", os.Geteuid()))
}
