package trace

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// counters are what the kernel tells of a ring.
type counters struct {
	entries uint64 // events waiting to be read
	lost    uint64 // events that never got in or were overwritten
	read    uint64 // events that somebody has read
}

// parseCounters reads a ring's stats file.
func parseCounters(text []byte) counters {
	var c counters
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte{'\n'})
		text = rest
		key, value, ok := bytes.Cut(line, []byte(": "))
		if !ok {
			continue
		}
		v, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			continue
		}
		switch string(key) {
		case "entries":
			c.entries = v
		case "read events":
			c.read = v
		case "overrun", "commit overrun", "dropped events":
			c.lost += v
		}
	}
	return c
}

// diskstat is what the driver reads of a disk's stat file.
type diskstat struct{ written, inflight, discarded uint64 }

// parseStat reads a block device's stat file: see Documentation/block/stat.
func parseStat(text string) (diskstat, error) {
	f := strings.Fields(text)
	var st diskstat
	for i, to := range map[int]*uint64{6: &st.written, 8: &st.inflight, 13: &st.discarded} {
		if i >= len(f) {
			if i == 13 {
				continue // kernels before 4.18 do not count discards
			}
			return diskstat{}, fmt.Errorf("counters %q have too few fields", text)
		}
		v, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return diskstat{}, fmt.Errorf("counters %q: %w", text, err)
		}
		*to = v
	}
	return st, nil
}
