package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func (w Window) validate() error {
	if _, err := w.days(); err != nil {
		return err
	}
	for field, s := range map[string]string{"from": w.From, "to": w.To} {
		if _, err := clock(s); err != nil {
			return fmt.Errorf("%s %w", field, err)
		}
	}
	if w.From == w.To {
		return fmt.Errorf("from and to are both %s: for the whole day use 00:00 to 24:00", w.From)
	}
	if w.Rate < 64<<10 {
		return fmt.Errorf("bytes_per_second is %d: use at least 65536, for a machine that sends nothing has no points", w.Rate)
	}
	return nil
}

// clock reads HH:MM, 00:00 to 24:00, as minutes.
func clock(s string) (int, error) {
	if s == "24:00" {
		return 24 * 60, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != 5 {
		return 0, fmt.Errorf("is %q: use HH:MM from 00:00 to 24:00", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// days returns the days of a window, Sunday first.
func (w Window) days() (set [7]bool, err error) {
	if w.Days == "" {
		return [7]bool{true, true, true, true, true, true, true}, nil
	}
	for part := range strings.SplitSeq(w.Days, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		i, j := slices.Index(dayNames, first), slices.Index(dayNames, last)
		if i < 0 || j < 0 {
			return set, fmt.Errorf("days is %q: use sun, mon, tue, wed, thu, fri, sat, lists like sat,sun and ranges like mon-fri", w.Days)
		}
		for d := i; ; d = (d + 1) % 7 {
			set[d] = true
			if d == j {
				break
			}
		}
	}
	return set, nil
}

// holds reports whether a window holds at t. One past midnight belongs to the day on
// which it begins.
func (w Window) holds(t time.Time) bool {
	days, derr := w.days()
	from, ferr := clock(w.From)
	to, terr := clock(w.To)
	if derr != nil || ferr != nil || terr != nil {
		return false // a validated window has none of these
	}
	now, day := t.Hour()*60+t.Minute(), int(t.Weekday())
	if from < to {
		return days[day] && now >= from && now < to
	}
	return days[day] && now >= from || days[(day+6)%7] && now < to
}

// Rate returns the bytes a second that may be sent at t, in the zone of t; 0 is no
// bound.
func (p *Policy) Rate(t time.Time) int64 { return rate(p.Throttle, t) }

// SiteRate returns the bytes a second that all machines together may send at t, in
// the zone of t; 0 is no bound.
func (p *Policy) SiteRate(t time.Time) int64 { return rate(p.SiteThrottle, t) }

func rate(windows []Window, t time.Time) (rate int64) {
	for _, w := range windows {
		if w.holds(t) && (rate == 0 || w.Rate < rate) {
			rate = w.Rate
		}
	}
	return rate
}
