package failover

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

// The words for a recovery point. Anything else is a time (RFC 3339: the newest
// point at or before it), or an id or the start of one.
const (
	Latest          = "latest"           // after everything that has arrived is processed
	LatestProcessed = "latest-processed" // the newest that is listed now
	LatestApp       = "latest-app"       // the newest application-consistent one
	LatestMulti     = "latest-multi"     // the newest that the machine has in common with others of its group
	LatestMultiApp  = "latest-multi-app" // the newest of those that is application-consistent
)

// ErrNoPoint means that no recovery point is what was asked for.
var ErrNoPoint = errors.New("no such recovery point")

// Select returns the point of a machine that word names. Points may be in any
// order and of any machine. Words and times choose among the points that lack no disk
// (see Lacks), if there are any. An error wraps ErrNoPoint and says what there is.
func Select(all []*vault.Point, machine, word string) (*vault.Point, error) {
	mine := Of(all, machine)
	if len(mine) == 0 {
		return nil, fmt.Errorf("%w: machine %s has none", ErrNoPoint, machine)
	}
	byID := mine // an id means that point, whatever it lacks
	if whole := wholeOf(mine, machine); len(whole) > 0 {
		mine = whole
	}
	newest := mine[len(mine)-1]
	switch word {
	case "", Latest, LatestProcessed:
		return newest, nil
	case LatestApp, LatestMulti, LatestMultiApp:
		what := map[string]string{
			LatestApp: "application-consistent", LatestMulti: "common to several machines", LatestMultiApp: "application-consistent and common to several machines",
		}[word]
		for _, p := range slices.Backward(mine) {
			if (word == LatestMulti || p.Consistency == "app") && (word == LatestApp || len(p.Machines) > 1) {
				return p, nil
			}
		}
		return nil, fmt.Errorf("%w: none of the %d points of machine %s is %s", ErrNoPoint, len(mine), machine, what)
	}
	if at, err := time.Parse(time.RFC3339, word); err == nil {
		for _, p := range slices.Backward(mine) {
			if !p.Time.After(at) {
				return p, nil
			}
		}
		return nil, fmt.Errorf("%w: the oldest point of machine %s is of %s, after %s", ErrNoPoint, machine, mine[0].Time.UTC().Format(time.RFC3339), word)
	}
	p, err := ByID(byID, word)
	if err != nil && !errors.Is(err, errAmbiguous) {
		return nil, fmt.Errorf("%w: %q is no id of a point of machine %s, no RFC 3339 time, and none of the words %s, %s, %s, %s, %s",
			ErrNoPoint, word, machine, Latest, LatestProcessed, LatestApp, LatestMulti, LatestMultiApp)
	}
	return p, err
}

// Lacks returns the disks that a point of a machine was made without although an older
// point has them. An agent that cannot read a disk goes on with the others, and its points
// say so; such a point brings up a machine without that disk.
func Lacks(all []*vault.Point, machine string, p *vault.Point) []string {
	return lacks(Of(all, machine), machine, p)
}

// wholeOf returns the points that lack nothing.
func wholeOf(mine []*vault.Point, machine string) []*vault.Point {
	return slices.DeleteFunc(slices.Clone(mine), func(p *vault.Point) bool { return len(lacks(mine, machine, p)) > 0 })
}

func lacks(mine []*vault.Point, machine string, p *vault.Point) (out []string) {
	m := member(p, machine)
	if m == nil {
		return nil
	}
	for _, d := range m.Disks {
		for part := range strings.SplitSeq(d.Note, "; ") {
			rest, ok := strings.CutPrefix(part, wire.NoteWithout)
			if !ok {
				continue
			}
			name, _, _ := strings.Cut(rest, ":")
			older := func(q *vault.Point) bool {
				k := member(q, machine)
				return q.Time.Before(p.Time) && slices.ContainsFunc(k.Disks, func(d vault.PointDisk) bool { return d.Disk == name })
			}
			if !slices.Contains(out, name) && slices.ContainsFunc(mine, older) {
				out = append(out, name)
			}
		}
	}
	return out
}

// about says what a choice is short of, empty if nothing: the disks that the point lacks,
// or that newer ones do.
func about(all []*vault.Point, machine string, p *vault.Point) string {
	mine := Of(all, machine)
	if d := lacks(mine, machine, p); len(d) > 0 {
		return "it lacks disk " + strings.Join(d, ", ")
	}
	n, names := 0, []string{}
	for _, q := range mine {
		if d := lacks(mine, machine, q); q.Time.After(p.Time) && len(d) > 0 {
			n, names = n+1, append(names, d...)
		}
	}
	if n == 0 {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("%d newer points lack disk %s", n, strings.Join(slices.Compact(names), ", "))
}

var errAmbiguous = errors.New("write more of its id")

// ByID returns the point with an id, or the only one whose id starts so. An error
// wraps ErrNoPoint.
func ByID(all []*vault.Point, word string) (*vault.Point, error) {
	var found []*vault.Point
	for _, p := range all {
		if p.ID == word {
			return p, nil
		}
		if strings.HasPrefix(p.ID, word) {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 1 && word != "":
		return found[0], nil
	case len(found) == 0 || word == "":
		return nil, fmt.Errorf("%w: %q", ErrNoPoint, word)
	}
	return nil, fmt.Errorf("%w: %d points start with %q: %w", ErrNoPoint, len(found), word, errAmbiguous)
}

// Of returns the points that include a machine, the oldest cut first.
func Of(all []*vault.Point, machine string) []*vault.Point {
	var mine []*vault.Point
	for _, p := range all {
		if member(p, machine) != nil {
			mine = append(mine, p)
		}
	}
	slices.SortStableFunc(mine, func(a, b *vault.Point) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return mine
}

func member(p *vault.Point, machine string) *vault.PointMachine {
	for i := range p.Machines {
		if p.Machines[i].Machine == machine {
			return &p.Machines[i]
		}
	}
	return nil
}
