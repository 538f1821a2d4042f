package drill

import (
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/streams"
)

// Limits of a drill.
const (
	MinEvery = time.Hour
	MaxEvery = 366 * 24 * time.Hour
	// Recommended is for how long a successful test speaks for a machine. Azure Site
	// Recovery asks for a drill when none succeeded in six months; we ask sooner.
	Recommended = 30 * 24 * time.Hour
)

// Drill is the document that operators write.
type Drill struct {
	Name  string          `json:"name" yaml:"name"`
	Plan  string          `json:"plan" yaml:"plan"`
	Every policy.Duration `json:"every" yaml:"every"`
	// At is the time of day, like 03:00, in control's time zone; empty: whenever Every is over.
	At     string `json:"at,omitempty" yaml:"at,omitempty"`
	Paused bool   `json:"paused,omitempty" yaml:"paused,omitempty"`
}

// Validate names what cannot work.
func (d *Drill) Validate() error {
	if err := streams.ValidName("drill", d.Name); err != nil {
		return err
	}
	if err := streams.ValidName("plan", d.Plan); err != nil {
		return fmt.Errorf("drill %s: %w", d.Name, err)
	}
	if e := time.Duration(d.Every); e < MinEvery || e > MaxEvery {
		return fmt.Errorf("drill %s: every is %s: use 1h to %s", d.Name, d.Every, policy.Duration(MaxEvery))
	}
	if d.At == "" {
		return nil
	}
	if _, err := time.Parse("15:04", d.At); err != nil {
		return fmt.Errorf("drill %s: at is %q: use a time of day like 03:00", d.Name, d.At)
	}
	if time.Duration(d.Every) < 24*time.Hour {
		return fmt.Errorf("drill %s: at %s cannot hold every %s: use 24h or more, or leave at away", d.Name, d.At, d.Every)
	}
	return nil
}

// Next returns when d is due, if its last time began at last, or never if that is zero;
// then it counts from when it was written. With At that is the first such time of day
// that comes no sooner than half a day before Every is over, in last's or written's zone
// as given by loc.
func (d *Drill) Next(last, written time.Time, loc *time.Location) time.Time {
	from, every := last, time.Duration(d.Every)
	if d.At == "" {
		if from.IsZero() {
			return written
		}
		return from.Add(every)
	}
	at, err := time.Parse("15:04", d.At)
	if err != nil { // Validate refuses it
		return from.Add(every)
	}
	earliest := written
	if !from.IsZero() {
		earliest = from.Add(every - 12*time.Hour)
	}
	e := earliest.In(loc)
	next := time.Date(e.Year(), e.Month(), e.Day(), at.Hour(), at.Minute(), 0, 0, loc)
	if next.Before(earliest) {
		next = time.Date(e.Year(), e.Month(), e.Day()+1, at.Hour(), at.Minute(), 0, 0, loc)
	}
	return next
}

// State is what is known of a drill's times. Control keeps it beside the drill.
type State struct {
	Run    string    `json:"run,omitempty"` // on its way, or being cleaned up
	Last   time.Time `json:"last,omitzero"` // when the last one began
	Report string    `json:"report,omitempty"`
	Passed bool      `json:"passed"` // the last one
	Failed int       `json:"failed_in_a_row,omitempty"`
}
