package trace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ring is the buffer of one CPU.
type ring struct {
	pipe  int // trace_pipe_raw, not blocking
	stats int
	base  counters // lost: what to start from
	index int      // among the rings
	got   uint64   // events that this driver has read, also in processes before this one
}

// openRings opens the rings of every CPU that this machine may ever have.
func (in *instance) openRings() ([]*ring, error) {
	dirs, err := filepath.Glob(filepath.Join(in.dir, "per_cpu/cpu[0-9]*"))
	if err != nil || len(dirs) == 0 {
		return nil, fmt.Errorf("no rings in %s", in.dir)
	}
	var rings []*ring
	for i, d := range dirs {
		r, err := openRing(d)
		if err != nil {
			closeRings(rings)
			return nil, err
		}
		r.index = i
		rings = append(rings, r)
	}
	return rings, nil
}

func openRing(dir string) (*ring, error) {
	pipe, err := unix.Open(filepath.Join(dir, "trace_pipe_raw"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s/trace_pipe_raw: %w", dir, err)
	}
	stats, err := unix.Open(filepath.Join(dir, "stats"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(pipe)
		return nil, fmt.Errorf("open %s/stats: %w", dir, err)
	}
	return &ring{pipe: pipe, stats: stats}, nil
}

func closeRings(rings []*ring) {
	for _, r := range rings {
		_ = unix.Close(r.pipe)
		_ = unix.Close(r.stats)
	}
}

// read reads one page, 0 if the ring is empty.
func (r *ring) read(page []byte) (int, error) {
	for {
		n, err := unix.Read(r.pipe, page)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case !errors.Is(err, unix.EINTR):
			return 0, fmt.Errorf("read the event ring: %w", err)
		}
	}
}

// counters reads what the kernel tells, into buf.
func (r *ring) counters(buf []byte) (counters, error) {
	n, err := unix.Pread(r.stats, buf, 0)
	if err != nil {
		return counters{}, fmt.Errorf("read the event ring's counters: %w", err)
	}
	return parseCounters(buf[:n]), nil
}

// switches are the files that say whether the instance still records.
type switches []*os.File

func (in *instance) openSwitches(all []watched) (switches, error) {
	names := []string{"tracing_on"}
	for _, w := range all {
		names = append(names, filepath.Join(w.event, "enable"))
	}
	var s switches
	for _, n := range names {
		f, err := os.Open(filepath.Join(in.dir, n))
		if err != nil {
			s.close()
			return nil, err
		}
		s = append(s, f)
	}
	return s, nil
}

func (s switches) close() {
	for _, f := range s {
		_ = f.Close()
	}
}

// recording says whether all switches are on.
func (s switches) recording() bool {
	var b [8]byte
	for _, f := range s {
		if n, err := f.ReadAt(b[:], 0); n < 1 || (err != nil && n == 0) || b[0] != '1' {
			return false
		}
	}
	return true
}
