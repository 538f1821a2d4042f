package vault

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func pointsEvery(n int, step time.Duration, app func(i int) bool) []*Point {
	var all []*Point
	for i := range n {
		p := &Point{ID: fmt.Sprintf("p%04d", i), Time: testTime.Add(time.Duration(i) * step), Consistency: "crash"}
		if app != nil && app(i) {
			p.Consistency = "app"
		}
		all = append(all, p)
	}
	return all
}

func TestRetention(t *testing.T) {
	// A point each 10 minutes for 4 days, ending at 10:00; every 6th is app-consistent at :30.
	points := pointsEvery(4*24*6+1, 10*time.Minute, func(i int) bool { return i%6 == 3 })
	last := len(points) - 1
	for _, c := range []struct {
		keep string
		want []int // indexes from the end
	}{
		{"all=30m", []int{0, 1, 2, 3}},
		{"hourly=3", []int{0, 3, 9}}, // 10:00; 9:30 and 8:30 are app-consistent
		{"daily=2", []int{0, 3, 63}}, // today's best is 9:30, yesterday's 23:30; the newest stays
		{"weekly=1", []int{0, 3}},    // all in one week or two
		{"all=10m,daily=1", []int{0, 1, 3}},
	} {
		r, err := ParseRetention(c.keep)
		if err != nil {
			t.Fatal(err)
		}
		if r.String() != c.keep {
			t.Errorf("%s prints as %s", c.keep, r)
		}
		reasons := r.Reasons(points)
		var got []int
		for i := range points {
			if len(reasons[points[last-i].ID]) > 0 {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s keeps %v, want %v", c.keep, got, c.want)
		}
	}
	if n := len(Retention{}.Reasons(points)); n != len(points) {
		t.Errorf("the zero retention keeps %d of %d points", n, len(points))
	}
	// Order of the input does not matter, and neither does today's date.
	slices.Reverse(points)
	if n := len(Retention{Daily: 3}.Reasons(points)); n != 4 {
		t.Errorf("%d points kept", n)
	}
}

func TestRetentionErrors(t *testing.T) {
	for _, s := range []string{"", "all", "all=x", "all=-1h", "hourly=many", "fortnightly=2", "hourly=0", "all=2h;daily=1"} {
		if r, err := ParseRetention(s); err == nil {
			t.Errorf("%q is taken as %s", s, r)
		}
	}
	if r, err := ParseRetention("everything"); err != nil || r != (Retention{}) || r.String() != "everything" {
		t.Errorf("everything: %v, %v", r, err)
	}
}
