package web

import (
	"math"
	"time"

	"github.com/leeward-dr/leeward/control/api"
)

// timeline is the recovery points of a machine on a line, now at its right end. Distance
// is the logarithm of age: the last minutes matter most, and a year fits too.
type timeline struct {
	Width, Height int
	Marks         []mark
	Ticks         []tickMark
	Crash, App    int
	Multi, Pinned int
}

// mark is a point, or several that fall on the same pixel.
type mark struct {
	X     float64
	Kind  string // crash, app, multi or pinned: the best of those on the pixel
	Title string
	n     int
}

type tickMark struct {
	X    float64
	Name string
}

const (
	lineWidth  = 1000
	lineHeight = 74
	lineMargin = 16
	lineUnit   = 15 // seconds: below it the line is nearly even
)

var lineTicks = []struct {
	age  time.Duration
	name string
}{
	{time.Minute, "1 min"}, {10 * time.Minute, "10 min"}, {time.Hour, "1 h"}, {6 * time.Hour, "6 h"}, {24 * time.Hour, "1 day"},
	{7 * 24 * time.Hour, "1 week"}, {30 * 24 * time.Hour, "1 month"}, {365 * 24 * time.Hour, "1 year"},
}

// rank orders kinds: the better one is shown where several points meet.
var rank = map[string]int{"crash": 0, "multi": 1, "app": 2, "pinned": 3}

func lineOf(points []api.Point, now time.Time) *timeline {
	l := &timeline{Width: lineWidth, Height: lineHeight}
	if len(points) == 0 {
		return l
	}
	oldest := max(now.Sub(points[0].Time), 10*time.Minute)
	span := math.Log1p(oldest.Seconds() / lineUnit)
	at := func(age time.Duration) float64 {
		x := math.Log1p(max(age.Seconds(), 0)/lineUnit) / span
		return math.Round(10*(lineWidth-lineMargin-x*(lineWidth-2*lineMargin))) / 10
	}
	for _, t := range lineTicks {
		if x := at(t.age); t.age <= oldest && x > 30 {
			l.Ticks = append(l.Ticks, tickMark{at(t.age), t.name})
		}
	}
	for _, p := range points {
		kind := "crash"
		if len(p.Machines) > 1 {
			kind = "multi"
			l.Multi++
		}
		if p.Consistency == "app" {
			kind = "app"
			l.App++
		} else {
			l.Crash++
		}
		if p.Pinned {
			kind = "pinned"
			l.Pinned++
		}
		x := math.Round(at(now.Sub(p.Time))/2) * 2
		if n := len(l.Marks); n > 0 && l.Marks[n-1].X == x {
			if m := &l.Marks[n-1]; rank[kind] >= rank[m.Kind] {
				m.Kind, m.Title = kind, titleOf(p)
			}
			l.Marks[n-1].n++
			continue
		}
		l.Marks = append(l.Marks, mark{X: x, Kind: kind, Title: titleOf(p), n: 1})
	}
	return l
}

func titleOf(p api.Point) string {
	t := stamp(p.Time) + ", " + p.Consistency + "-consistent"
	if p.Name != "" {
		t += ", " + p.Name
	}
	return t
}
