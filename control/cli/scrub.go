package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// redacted stands where a secret was.
const redacted = "[redacted]"

// shapes of secrets, whoever wrote them. A name that ends in _file or -file names no
// secret but where one lies, and stays.
var shapes = []struct {
	is   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*(?:KEY|SEED|JWT|CREDS|CREDENTIALS)[A-Z0-9 ]*-----.*?(?:-----+END [A-Z0-9 ]*-----+|\z)`), redacted},
	{regexp.MustCompile(`\bS[ACNOPUX][A-Z2-7]{40,}\b`), redacted},      // seeds of NATS keys
	{regexp.MustCompile(`\blw_[A-Za-z0-9]+_[A-Za-z0-9_-]+`), redacted}, // tokens of enrolment
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)+`), redacted},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[^\s"',]+`), "$1 " + redacted},
	{regexp.MustCompile(`(?i)([a-z]+://)[^/@\s"']+@`), "${1}" + redacted + "@"},
	// Whoever knows the path of a webhook may use it.
	{regexp.MustCompile(`(?i)(https?://[^/?#\s"'\\]+)[/?#][^\s"'\\]*`), "$1/" + redacted},
	{regexp.MustCompile(`(?i)((?:pass(?:word|wd|phrase)?|secret|token|sas|sig|signature|credentials?|(?:account|access|api|shared|private)[_-]?key|LEEWARD_(?:NEW_)?KEY)(?:\\?["'])?\s*[:=]\s*)(?:\\"(?:[^"\\])*\\"|"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;&"'}\\]+)`), "${1}" + redacted},
}

// scrubber takes secrets out of text: what looks like one, and what is known to be
// one.
type scrubber struct{ known []string }

// newScrubber learns the secrets below an appliance's directory, and those given.
// What it cannot read it cannot give away either.
func newScrubber(dir string, given ...string) *scrubber {
	s := &scrubber{}
	for _, g := range given {
		s.learn(g)
	}
	for _, pattern := range []string{"keys/*", "trust/*", "trust/*/*", "trust/*/*/*", "tls/*.key"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is good
		for _, f := range files {
			if st, err := os.Stat(f); err != nil || !st.Mode().IsRegular() || st.Size() > 1<<20 {
				continue
			}
			if b, err := os.ReadFile(f); err == nil {
				for line := range strings.Lines(string(b)) {
					s.learn(line)
				}
			}
		}
	}
	// The longest first: one secret may begin with another.
	sort.Slice(s.known, func(i, j int) bool { return len(s.known[i]) > len(s.known[j]) })
	return s
}

// learn takes a line as secret. What is shorter would also match what is none.
func (s *scrubber) learn(line string) {
	if line = strings.TrimSpace(line); len(line) >= 6 && !strings.HasPrefix(line, "-----") {
		s.known = append(s.known, line)
	}
}

// scrub returns text without secrets.
func (s *scrubber) scrub(text string) string {
	for _, k := range s.known {
		text = strings.ReplaceAll(text, k, redacted)
	}
	for _, x := range shapes {
		text = x.is.ReplaceAllString(text, x.with)
	}
	return text
}
