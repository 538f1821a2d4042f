package disk

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// mountLine is one line of /proc/self/mountinfo.
type mountLine struct {
	id           int
	major, minor uint32
	root         string
	path         string
	fstype       string
	source       string
	superOpts    string
}

// parseMountinfo reads the text of a mountinfo file, see proc_pid_mountinfo(5).
func parseMountinfo(text []byte) ([]mountLine, error) {
	var lines []mountLine
	for n := 1; len(text) > 0; n++ {
		line, rest, _ := bytes.Cut(text, []byte{'\n'})
		text = rest
		if len(line) == 0 {
			continue
		}
		m, err := parseMountLine(string(line))
		if err != nil {
			return nil, fmt.Errorf("mountinfo line %d: %w", n, err)
		}
		lines = append(lines, m)
	}
	return lines, nil
}

func parseMountLine(line string) (mountLine, error) {
	left, right, ok := strings.Cut(line, " - ")
	if !ok {
		return mountLine{}, fmt.Errorf("no separator in %q", line)
	}
	// Empty fields are legal on the right: a mount may have an empty source.
	l, r := strings.Split(left, " "), strings.SplitN(right, " ", 3)
	if len(l) < 6 || len(r) < 3 {
		return mountLine{}, fmt.Errorf("too few fields in %q", line)
	}
	id, err := strconv.Atoi(l[0])
	if err != nil {
		return mountLine{}, fmt.Errorf("mount id %q is not a number", l[0])
	}
	major, minor, _ := strings.Cut(l[2], ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 != nil || err2 != nil {
		return mountLine{}, fmt.Errorf("device %q is not major:minor", l[2])
	}
	return mountLine{
		id: id, major: uint32(ma), minor: uint32(mi),
		root: unescape(l[3]), path: unescape(l[4]),
		fstype: unescape(r[0]), source: unescape(r[1]), superOpts: r[2],
	}, nil
}

// unescape undoes the kernel's \ooo for space, tab, newline, backslash and #.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// parseSwaps reads the text of /proc/swaps: path and whether it is a file.
func parseSwaps(text []byte) []Swap {
	var swaps []Swap
	for i, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) < 2 {
			continue
		}
		swaps = append(swaps, Swap{Path: unescape(f[0]), File: f[1] == "file"})
	}
	return swaps
}
