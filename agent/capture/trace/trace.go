package trace

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
)

// DefaultRoot is where tracefs is mounted.
const DefaultRoot = "/sys/kernel/tracing"

// Options of a Source. Zero values mean the defaults.
type Options struct {
	Name        string // part of the instance's name, for people; default the device's name
	BufferKB    int    // memory of each CPU's ring in KiB; default 256 MiB shared by all CPUs, between 2 and 16 MiB each
	TracingRoot string // where tracefs is; default DefaultRoot, mounted there if it is not

	// Keep is a directory for a kept record: the kernel goes on recording when the
	// source is closed or its process dies, and the next source with the same
	// directory takes that over. Best in memory (tmpfs), never on the disk itself.
	// Empty: Close ends the recording.
	Keep string
}

// Stats count what a Source did since Start.
type Stats struct {
	Events    uint64 // requests seen
	Sectors   uint64 // of 512 bytes, written or zeroed
	Discarded uint64 // sectors discarded
	Pages     uint64 // ring pages read
	Busy      time.Duration
	Losses    uint64 // times ErrLost was returned
	Kept      bool   // whether recording goes on without this process
}

const drainEvery = 50 * time.Millisecond

func (o Options) withDefaults(device string) Options {
	if o.Name == "" {
		o.Name = device
	}
	o.Name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, o.Name)
	o.Name = o.Name[:min(len(o.Name), 64)]
	if o.BufferKB <= 0 {
		o.BufferKB = min(max(256<<10/runtime.NumCPU(), 2<<10), 16<<10)
	}
	if o.TracingRoot == "" {
		o.TracingRoot = DefaultRoot
	}
	return o
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("following writes is %w here: %w", capture.ErrUnsupported, fmt.Errorf(format, args...))
}
