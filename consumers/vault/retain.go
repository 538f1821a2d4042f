package vault

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Retention says which recovery points to keep. The zero value keeps all.
//
// Time is counted back from the newest point of a group, not from now: a site that
// has been down for a month still has its points.
type Retention struct {
	All    time.Duration // every point so young
	Hourly int           // the best point of each of so many hours that have any
	Daily  int
	Weekly int
	// Monthly and Yearly follow the calendar in UTC, like the others.
	Monthly int
	Yearly  int
}

// DefaultRetention keeps more than Azure Site Recovery does (all for 2 hours, then
// thinned for 1 to 15 days), for storage is what a point costs, and thinned points
// share nearly all of theirs.
var DefaultRetention = Retention{All: 2 * time.Hour, Hourly: 48, Daily: 14, Weekly: 8, Monthly: 12}

// calendar lists the rules of a Retention with the bucket that a time falls into.
func (r *Retention) calendar() []bucketRule {
	return []bucketRule{
		{"hourly", &r.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15") }},
		{"daily", &r.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"weekly", &r.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-W%02d", y, w) }},
		{"monthly", &r.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", &r.Yearly, func(t time.Time) string { return t.Format("2006") }},
	}
}

type bucketRule struct {
	name   string
	count  *int
	bucket func(time.Time) string
}

// ParseRetention reads "all=2h,hourly=24,daily=7,weekly=4,monthly=12,yearly=3", any
// of them, or "everything".
func ParseRetention(s string) (Retention, error) {
	var r Retention
	if s == "everything" {
		return r, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if err := r.set(name, value); err != nil {
			return Retention{}, fmt.Errorf("retention %q: %w", s, err)
		}
	}
	if r == (Retention{}) {
		return r, fmt.Errorf("retention %q would keep nothing but the newest point: say all=, hourly=, daily=, weekly=, monthly= or yearly=, or \"everything\"", s)
	}
	return r, nil
}

func (r *Retention) set(name, value string) error {
	if name == "all" {
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return fmt.Errorf("all=%s: want a duration like 2h", value)
		}
		r.All = d
		return nil
	}
	for _, rule := range r.calendar() {
		if rule.name == name {
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 {
				return fmt.Errorf("%s=%s: want a number", name, value)
			}
			*rule.count = n
			return nil
		}
	}
	return fmt.Errorf("%q: want all=, hourly=, daily=, weekly=, monthly= or yearly=", name)
}

// String returns what ParseRetention reads.
func (r Retention) String() string {
	if r == (Retention{}) {
		return "everything"
	}
	var parts []string
	if r.All > 0 {
		parts = append(parts, "all="+brief(r.All))
	}
	for _, rule := range r.calendar() {
		if *rule.count > 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", rule.name, *rule.count))
		}
	}
	return strings.Join(parts, ",")
}

// MarshalText returns String.
func (r Retention) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *Retention) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRetention(string(b))
	return err
}

// Reasons says for each of a group's points why it is kept; no reason means that it
// goes. The newest is always kept. Within an hour, day and so on an
// application-consistent point is better than a crash-consistent one, and a later
// one than an earlier one.
func (r Retention) Reasons(points []*Point) map[string][]string {
	reasons := map[string][]string{}
	if len(points) == 0 {
		return reasons
	}
	order := slices.Clone(points)
	slices.SortStableFunc(order, func(a, b *Point) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.ID, a.ID)) })
	add := func(p *Point, why string) { reasons[p.ID] = append(reasons[p.ID], why) }
	newest := order[0].Time
	add(order[0], "newest")
	for _, p := range order {
		if r == (Retention{}) {
			add(p, "everything")
		} else if r.All > 0 && newest.Sub(p.Time) <= r.All {
			add(p, "all")
		}
	}
	for _, rule := range r.calendar() {
		left := *rule.count
		for rest := order; left > 0 && len(rest) > 0; left-- {
			this, n := rule.bucket(rest[0].Time.UTC()), 1
			for n < len(rest) && rule.bucket(rest[n].Time.UTC()) == this {
				n++
			}
			best := rest[0]
			if i := slices.IndexFunc(rest[:n], func(p *Point) bool { return p.Consistency == "app" }); i >= 0 {
				best = rest[i]
			}
			add(best, rule.name)
			rest = rest[n:]
		}
	}
	return reasons
}

// brief prints a duration without units that are zero.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
