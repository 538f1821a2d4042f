package life

import (
	"cmp"
	"fmt"
	"time"
)

// Kind is what happens to a machine.
type Kind string

// The kinds of event. All but the first three are asked for by an operator.
const (
	Begin Kind = "begin" // a new process carries on
	Done  Kind = "done"
	Fail  Kind = "fail"

	Start     Kind = "start"
	Change    Kind = "change-point"
	Commit    Kind = "commit"
	Cancel    Kind = "cancel"
	Reprotect Kind = "reprotect"
	Failback  Kind = "failback"
	Complete  Kind = "complete"
	Disable   Kind = "disable"
	Enable    Kind = "enable"
)

// Event is what happened. Which fields count depends on its kind and on the phase.
type Event struct {
	Kind    Kind
	At      time.Time
	By      string
	Attempt uint64  // done, fail: of the work
	Text    string  // fail: why; else what to tell of it
	Point   string  // done of checking and draining, change-point: id of the point
	Job     string  // done and fail of bringing-up: the job
	Loss    *uint64 // done of fencing
	Order   Order   // start, failback, disable
}

// rule is a row of the package's table.
type rule struct {
	work               bool
	done, fail, cancel Phase // fail equal to the phase: again
	asked              map[Kind]Phase
}

var table = map[Phase]rule{
	Protected:    {asked: map[Kind]Phase{Start: Checking, Disable: Disabling}},
	Checking:     {work: true, done: Fencing, fail: Protected, cancel: Protected},
	Draining:     {work: true, done: Fencing, fail: Releasing, cancel: Releasing},
	Fencing:      {work: true, done: Bringing, fail: Releasing, cancel: Releasing},
	Stopping:     {work: true, done: Bringing, fail: Bringing, cancel: Releasing},
	Bringing:     {work: true, done: FailedOver, fail: Down, cancel: Ending},
	FailedOver:   {cancel: Ending, asked: map[Kind]Phase{Change: Changing, Commit: Committed}},
	Down:         {cancel: Ending, asked: map[Kind]Phase{Change: Changing}},
	Changing:     {work: true, done: Bringing, fail: Down, cancel: Ending},
	Ending:       {work: true, done: Releasing, fail: Ending},
	Releasing:    {work: true, done: Protected, fail: Releasing},
	Committed:    {asked: map[Kind]Phase{Reprotect: Reprotecting, Complete: Completing}},
	Reprotecting: {work: true, done: Ready, fail: Unprotecting, cancel: Unprotecting},
	Ready:        {cancel: Unprotecting, asked: map[Kind]Phase{Failback: Returning}},
	Unprotecting: {work: true, done: Committed, fail: Unprotecting},
	Returning:    {work: true, done: Returned, fail: Staying, cancel: Staying},
	Returned:     {cancel: Staying, asked: map[Kind]Phase{Commit: Settling}},
	Staying:      {work: true, done: Ready, fail: Staying},
	Settling:     {work: true, done: Protected, fail: Settling},
	Completing:   {work: true, done: Migrated, fail: Completing},
	Migrated:     {},
	Disabling:    {work: true, done: Disabled, fail: Disabling},
	Disabled:     {asked: map[Kind]Phase{Enable: Releasing}},
}

// RefusedError means that what was asked for makes no sense in the machine's phase.
type RefusedError struct {
	Machine string
	Kind    Kind
	Phase   Phase
}

// Error is one sentence.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("machine %s is %s: it cannot take %s", e.Machine, e.Phase, e.Kind)
}

// Step applies an event. It reports whether the phase's work, of l.Attempt, is to be
// begun; whatever work was on its way before is to be ended first, if the attempt has
// changed. l is not changed if it returns an error.
func (l *Life) Step(e Event) (work bool, err error) {
	r, ok := table[l.Phase]
	if !ok {
		return false, fmt.Errorf("machine %s is in the unknown phase %q", l.Machine, l.Phase)
	}
	switch e.Kind {
	case Begin:
		if r.work {
			l.Attempt++
		}
		return r.work, nil
	case Done, Fail:
		if !r.work || e.Attempt != l.Attempt {
			return false, nil // somebody cancelled it, or began it anew
		}
		l.ended(r, e)
		return table[l.Phase].work, nil
	}
	next := r.asked[e.Kind]
	if e.Kind == Cancel {
		next = r.cancel
	}
	if next == "" {
		return false, &RefusedError{l.Machine, e.Kind, l.Phase}
	}
	l.asked(next, e)
	return table[l.Phase].work, nil
}

// ended takes l on from work that is over.
func (l *Life) ended(r rule, e Event) {
	was := l.Phase
	if e.Job != "" {
		l.Job = e.Job
	}
	if e.Kind == Fail {
		l.Error = e.Text
		if r.fail == was {
			l.Failures++
			l.Attempt++
			return
		}
		l.enter(r.fail, e, e.Text)
		return
	}
	next := r.done
	switch was {
	case Checking:
		l.Point = e.Point
		if l.Order.Planned {
			next = Draining
		}
	case Draining:
		l.Point = e.Point
	case Fencing:
		l.Loss = e.Loss
		if l.Order.Shutdown != "" {
			next = Stopping
		}
	case Changing, Ending:
		l.Job = ""
	case Settling:
		l.Job, l.Point = "", ""
	}
	switch was {
	case Ending, Releasing, Unprotecting, Staying: // it still says why it came to nothing
	default:
		l.Error = ""
	}
	l.enter(next, e, e.Text)
}

// asked takes l to what an operator wants.
func (l *Life) asked(next Phase, e Event) {
	l.By = e.By
	switch e.Kind {
	case Start:
		l.Order, l.Point, l.Job, l.Loss = e.Order, "", "", nil
		l.Generation++
	case Change:
		l.Point, l.Order.Point = e.Point, cmp.Or(e.Order.Point, e.Point)
	case Failback:
		l.Order.Home = e.Order.Home
	case Disable:
		l.Order = e.Order
		l.Generation++
	}
	l.Error = ""
	if e.Kind == Cancel {
		l.Error = cmp.Or(e.Text, "cancelled")
	}
	l.enter(next, e, e.Text)
}

func (l *Life) enter(next Phase, e Event, why string) {
	l.Phase, l.Since, l.Failures = next, e.At, 0
	l.Attempt++ // what was on its way no longer counts
	by := ""
	switch e.Kind {
	case Done, Fail:
	default:
		by = e.By
	}
	l.Past = append(l.Past, Stage{Phase: next, At: e.At, By: by, Why: why})
	if n := len(l.Past); n > maxPast {
		l.Past = l.Past[n-maxPast:]
	}
}
