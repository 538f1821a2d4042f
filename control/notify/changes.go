package notify

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/control/health"
)

// Known is what was told already, by machine, code and disk.
type Known map[[3]string]Told

// Told is the newest message about something.
type Told struct {
	Level  health.Level
	At     time.Time
	Absent time.Time // since when it is not an issue any more; zero while it is
	Cause  string
}

// Quiet is how long an issue must be gone before that is told: what comes and goes is
// told once.
const Quiet = time.Minute

// Changes compares the issues that there are with what was told, notes them in known
// and returns what is to be told now: an issue at or above level that is new or worse
// than it was told, and one told that is gone for Quiet.
func Changes(now time.Time, known Known, issues []health.Issue, level health.Level) []Message {
	var out []Message
	here := map[[3]string]bool{}
	for _, i := range issues {
		if health.Rank(i.Level) < health.Rank(cmp.Or(level, health.Warning)) {
			continue
		}
		key := [3]string{i.Machine, i.Code, i.Disk}
		here[key] = true
		old, told := known[key]
		if told && health.Rank(i.Level) <= health.Rank(old.Level) {
			old.Absent = time.Time{}
			known[key] = old
			continue
		}
		known[key] = Told{Level: i.Level, At: now, Cause: i.Cause}
		out = append(out, Message{Time: now, Level: i.Level, Code: i.Code, Machine: i.Machine, Disk: i.Disk, Cause: i.Cause, Remedy: i.Remedy})
	}
	for _, key := range slices.SortedFunc(maps.Keys(known), func(a, b [3]string) int { return slices.Compare(a[:], b[:]) }) {
		told := known[key]
		switch {
		case here[key]:
		case told.Absent.IsZero():
			told.Absent = now
			known[key] = told
		case now.Sub(told.Absent) >= Quiet:
			delete(known, key)
			out = append(out, Message{Time: now, Level: health.Healthy, Code: key[1], Machine: key[0], Disk: key[2], Cause: "over: " + told.Cause})
		}
	}
	return out
}
