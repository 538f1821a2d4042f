package plan

import (
	"fmt"
	"time"
)

// Chosen is the point that a machine would be brought up from.
type Chosen struct {
	Point       string
	Time        time.Time
	Consistency string
	Pending     uint64 // bytes that are on their way and not in the point
}

// ForecastStep is one task of a dry run.
type ForecastStep struct {
	Task        string  `json:"task"`
	Stage       string  `json:"stage"`
	What        string  `json:"what"`
	Point       string  `json:"point,omitempty"`
	LossSeconds float64 `json:"loss_seconds,omitempty"`
	LossBytes   uint64  `json:"loss_bytes,omitempty"`
	Seconds     float64 `json:"seconds"` // expected; of a script or request nothing is known, of a gate it is a person's
	Skipped     bool    `json:"skipped,omitempty"`
}

// DryRun is what would happen. Schema "leeward.forecast.v1".
type DryRun struct {
	Schema      string         `json:"schema"`
	Plan        string         `json:"plan"`
	Mode        string         `json:"mode"`
	Steps       []ForecastStep `json:"steps"`
	LossSeconds float64        `json:"loss_seconds"` // of the machine that loses most
	LossBytes   uint64         `json:"loss_bytes"`   // of all machines
	Seconds     float64        `json:"seconds"`      // without gates, scripts and requests
	Gates       int            `json:"gates"`        // that wait for a person
	Problems    []string       `json:"problems"`     // why it would not succeed
}

// unknownBoot is what a machine is expected to take that was never brought up.
const unknownBoot = 2 * time.Minute

// Forecast says what a run that was not begun would do. choose finds the point of a
// machine, boots are the durations of machines that were brought up before.
func Forecast(r *Run, now time.Time, choose func(machine, word string) (Chosen, error), boots map[string]time.Duration) *DryRun {
	f := &DryRun{Schema: "leeward.forecast.v1", Plan: r.Plan, Mode: r.Mode, Steps: []ForecastStep{}, Problems: []string{}}
	slowest, part := 0.0, -1
	for i := range r.Tasks {
		t := &r.Tasks[i]
		s := ForecastStep{Task: t.ID, Stage: t.Stage, Skipped: t.State == Skipped}
		if t.Part != part {
			f.Seconds, slowest, part = f.Seconds+slowest, 0, t.Part
		}
		switch {
		case t.Machine != nil:
			word := t.Machine.Point
			if word == "" {
				word = r.Point
			}
			s.What = "bring up " + t.Machine.Machine
			s.Seconds = unknownBoot.Seconds()
			if d, ok := boots[t.Machine.Machine]; ok {
				s.Seconds = d.Seconds()
			}
			slowest = max(slowest, s.Seconds)
			c, err := choose(t.Machine.Machine, word)
			if err != nil {
				f.Problems = append(f.Problems, err.Error())
				break
			}
			s.Point, s.LossSeconds, s.LossBytes = c.Point, max(now.Sub(c.Time).Seconds(), 0), c.Pending
			f.LossSeconds = max(f.LossSeconds, s.LossSeconds)
			f.LossBytes += c.Pending
		case t.Action.Ask != "":
			s.What = "ask: " + t.Action.Ask
			if !s.Skipped {
				f.Gates++
			}
		case t.Action.HTTP != nil:
			s.What = fmt.Sprintf("%s: request to %s", t.Action.Name, t.Action.HTTP.URL)
		case t.Action.Script.SSH != "":
			s.What = fmt.Sprintf("%s: script on %s", t.Action.Name, t.Action.Script.SSH)
		default:
			s.What = t.Action.Name + ": script here"
		}
		f.Steps = append(f.Steps, s)
	}
	f.Seconds += slowest
	return f
}
