package qemu

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// The limits of what a guest may say, in bytes.
const (
	maxSerialLog  = 16 << 20 // that is kept in the file
	maxSerialText = 1 << 20  // that a probe can look back on
	maxSerialLine = 4096     // that is shown of a line
)

// serial keeps what a guest says on its serial line.
type serial struct {
	start time.Time

	mu      sync.Mutex
	text    []byte // the latest
	dropped int64  // bytes before text
	lines   int    // with something in them
	first   time.Duration
	changed chan struct{} // closed and replaced when more is said
	ended   bool
}

func newSerial(start time.Time) *serial {
	return &serial{start: start, changed: make(chan struct{})}
}

// read takes in everything from r until it ends, and keeps it in log.
func (s *serial) read(r io.Reader, log *os.File) {
	defer s.end()
	buf := make([]byte, 32<<10)
	kept := 0
	for {
		n, err := r.Read(buf)
		if part := buf[:min(n, maxSerialLog-kept)]; len(part) > 0 {
			if _, err := log.Write(part); err != nil {
				kept = maxSerialLog // no room: what matters is that the guest goes on
			}
			kept += len(part)
		}
		s.add(buf[:n])
		if err != nil {
			return
		}
	}
}

func (s *serial) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	close(s.changed)
}

func (s *serial) add(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b) == 0 {
		return
	}
	from := bytes.LastIndexByte(s.text, '\n') + 1
	s.text = append(s.text, b...)
	for {
		i := bytes.IndexByte(s.text[from:], '\n')
		if i < 0 {
			break
		}
		if clean(s.text[from:from+i]) != "" {
			s.lines++
		}
		from += i + 1
	}
	if s.first == 0 && (s.lines > 0 || clean(s.text[from:]) != "") {
		s.first = time.Since(s.start)
	}
	if over := len(s.text) - maxSerialText; over > 0 {
		over += maxSerialText / 4 // not with every byte
		s.text = append(s.text[:0], s.text[over:]...)
		s.dropped += int64(over)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// escapes are what terminals are told besides text; the last may not be complete.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78cDEHM]|(\[[0-9;?]*|[()])?$)`)

// clean returns the readable part of a line.
func clean(line []byte) string {
	line = escapes.ReplaceAll(line[:min(len(line), maxSerialLine)], nil)
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return -1
		}
		return r
	}, string(line)))
}

// look is what a search for a line found.
type look struct {
	line    string
	found   bool
	partial bool            // the line found may go on
	next    int64           // where to search on
	changed <-chan struct{} // closed when more was said
	ended   bool            // nothing more will be
}

// find searches what was said since pos (0 is the start) for a line that matches, also
// one that is not complete: a prompt never is.
func (s *serial) find(re *regexp.Regexp, pos int64) look {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.text[max(0, min(pos-s.dropped, int64(len(s.text)))):]
	l := look{next: s.dropped + int64(len(s.text)-len(text)), changed: s.changed, ended: s.ended}
	for len(text) > 0 {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if c := clean(line); re.MatchString(c) {
			l.line, l.found, l.partial = c, true, !whole
			return l
		}
		if !whole {
			break
		}
		l.next += int64(len(line)) + 1
		text = rest
	}
	return l
}

// summary says how much was said, for the evidence of a machine that is not alive.
func (s *serial) summary() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines == 0 {
		return "the serial line was silent"
	}
	lines := strings.Split(string(s.text[max(0, len(s.text)-2*maxSerialLine):]), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if c := clean([]byte(lines[i])); c != "" {
			return fmt.Sprintf("%d lines on the serial line, the last: %s", s.lines, c)
		}
	}
	return fmt.Sprintf("%d lines on the serial line", s.lines)
}

func (s *serial) firstLine() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}
