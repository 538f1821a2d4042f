package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// TaskState is where a task stands.
type TaskState string

// The states of a task. Skipped is one that is not of the run's mode, or that a run
// that stopped did not come to.
const (
	Waiting   TaskState = "waiting"
	Running   TaskState = "running"
	Asking    TaskState = "asking" // waits for a person
	Done      TaskState = "done"
	Failed    TaskState = "failed"
	Ignored   TaskState = "failed-ignored" // failed, and the run went on
	Skipped   TaskState = "skipped"
	Cancelled TaskState = "cancelled"
)

// Task is one thing to do: an action, or a machine to bring up. Exactly one of
// Action and Machine is set.
type Task struct {
	ID       string    `json:"id"` // stage/before|machine|after/number, stable within a run
	Stage    string    `json:"stage"`
	Part     int       `json:"part"` // tasks of equal parts run at once, lower ones first
	Action   *Action   `json:"action,omitempty"`
	Machine  *Machine  `json:"machine,omitempty"`
	State    TaskState `json:"state"`
	Attempts int       `json:"attempts"`
	Question string    `json:"question,omitempty"` // while asking
	Error    string    `json:"error,omitempty"`    // of the last attempt
	Answer   string    `json:"answer,omitempty"`
	By       string    `json:"by,omitempty"` // who answered
	Result   string    `json:"result,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
}

// Name says what the task is, for people.
func (t *Task) Name() string {
	if t.Machine != nil {
		return t.Machine.Machine
	}
	return t.Action.Name
}

func (t *Task) retries() int {
	if t.Machine != nil {
		return t.Machine.Retries
	}
	return t.Action.Retries
}

func (t *Task) onError() string {
	if t.Machine != nil {
		return cmp.Or(t.Machine.OnError, Stop)
	}
	return cmp.Or(t.Action.OnError, Stop)
}

// Timeout is how long one attempt may take; 0 for one that waits for a person.
func (t *Task) Timeout() time.Duration {
	switch {
	case t.Machine != nil:
		return cmp.Or(time.Duration(t.Machine.Timeout), DefaultBoot)
	case t.Action.Ask != "":
		return time.Duration(t.Action.Timeout)
	}
	return cmp.Or(time.Duration(t.Action.Timeout), DefaultTimeout)
}

func (t *Task) over() bool {
	return slices.Contains([]TaskState{Done, Failed, Ignored, Skipped, Cancelled}, t.State)
}

// RunState is where a run stands.
type RunState string

// The states of a run. Warnings is done, but for failures that its plan ignores.
const (
	RunActive    RunState = "running"
	RunAsking    RunState = "waiting-for-answer"
	RunDone      RunState = "done"
	RunWarnings  RunState = "done-with-warnings"
	RunFailed    RunState = "failed"
	RunCancelled RunState = "cancelled"
)

// Run is one execution of a plan.
type Run struct {
	Schema  string    `json:"schema,omitempty"` // leeward.run.v1
	ID      string    `json:"id"`
	Plan    string    `json:"plan"`
	Version uint64    `json:"plan_version"`
	Mode    string    `json:"mode"`
	Point   string    `json:"point,omitempty"` // of all machines that do not say their own
	Target  Target    `json:"target,omitzero"`
	By      string    `json:"by,omitempty"`
	State   RunState  `json:"state"`
	Stopped bool      `json:"stopped,omitempty"` // nothing new is started
	Error   string    `json:"error,omitempty"`
	Tasks   []Task    `json:"tasks"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
}

// Over reports whether nothing more will happen.
func (r *Run) Over() bool { return r.State != RunActive && r.State != RunAsking }

// New makes a run of a plan, with every task that its mode has.
func New(id string, p *Plan, version uint64, mode, point, by string, now time.Time) (*Run, error) {
	if !slices.Contains(Modes, mode) {
		return nil, fmt.Errorf("mode is %q: use test, failover or failback", mode)
	}
	r := &Run{
		Schema: "leeward.run.v1", ID: id, Plan: p.Name, Version: version, Mode: mode, By: by, State: RunActive, Started: now,
		Point: cmp.Or(point, p.Point, "latest"), Target: p.Target,
	}
	part := 0
	for _, s := range p.Stages {
		actions := func(where string, all []Action) {
			for i, a := range all {
				t := Task{ID: fmt.Sprintf("%s/%s/%d", s.Name, where, i+1), Stage: s.Name, Part: part, Action: &a, State: Waiting}
				if len(a.Only) > 0 && !slices.Contains(a.Only, mode) {
					t.State = Skipped
				}
				r.Tasks = append(r.Tasks, t)
				part++
			}
		}
		actions("before", s.Before)
		for i, m := range s.Machines {
			r.Tasks = append(r.Tasks, Task{ID: fmt.Sprintf("%s/machine/%d", s.Name, i+1), Stage: s.Name, Part: part, Machine: &m, State: Waiting})
		}
		part++
		actions("after", s.After)
	}
	return r, nil
}

// EventKind is what happened to a run.
type EventKind string

// The kinds of event.
const (
	Begin    EventKind = "begin"    // the first, or after who carried it out has died
	Succeed  EventKind = "succeed"  // an attempt at Task
	Fail     EventKind = "fail"     // an attempt at Task, with Text
	Answered EventKind = "answered" // Task, with Text: yes, no, retry, continue or stop
	Cancel   EventKind = "cancel"
)

// Event is what happened.
type Event struct {
	Kind    EventKind
	Task    string
	Attempt int // of Task, for succeed and fail: an answer to an earlier attempt changes nothing
	Text    string
	By      string
	At      time.Time
}

// Effect is what to do: start an attempt at a task, or end the one that is on its
// way.
type Effect struct {
	Start   string // id of a task
	Attempt int
	End     string
}

// ErrAnswer means that nobody asked, or not for that answer.
type ErrAnswer struct{ Why string }

// Error is one sentence.
func (e *ErrAnswer) Error() string { return e.Why }

// Step applies an event and returns what to do. The run is not changed if it returns
// an error.
func (r *Run) Step(e Event) ([]Effect, error) {
	if r.Over() {
		if e.Kind == Answered || e.Kind == Cancel {
			return nil, &ErrAnswer{fmt.Sprintf("run %s is %s", r.ID, r.State)}
		}
		return nil, nil
	}
	var out []Effect
	switch e.Kind {
	case Begin:
		for i := range r.Tasks {
			if t := &r.Tasks[i]; t.State == Running { // whoever did it is gone
				t.Attempts++
				out = append(out, Effect{Start: t.ID, Attempt: t.Attempts})
			}
		}
	case Succeed, Fail:
		t := r.task(e.Task)
		if t == nil || t.State != Running || t.Attempts != e.Attempt {
			return nil, nil // late
		}
		out = r.attempted(t, e)
	case Answered:
		t := r.task(e.Task)
		if t == nil || t.State != Asking {
			return nil, &ErrAnswer{fmt.Sprintf("run %s asks nothing about %s", r.ID, e.Task)}
		}
		if why := r.answered(t, e); why != "" {
			return nil, &ErrAnswer{why}
		}
	case Cancel:
		out = r.stop(e.At, cmp.Or(e.Text, "cancelled"))
		r.State, r.Ended, r.Error = RunCancelled, e.At, cmp.Or(e.Text, "cancelled")
		return out, nil
	}
	return append(out, r.advance(e.At)...), nil
}

func (r *Run) task(id string) *Task {
	i := slices.IndexFunc(r.Tasks, func(t Task) bool { return t.ID == id })
	if i < 0 {
		return nil
	}
	return &r.Tasks[i]
}

// attempted takes in the end of an attempt.
func (r *Run) attempted(t *Task, e Event) []Effect {
	if e.Kind == Succeed {
		t.State, t.Ended, t.Error, t.Result = Done, e.At, "", e.Text
		return nil
	}
	t.Error = e.Text
	if t.Attempts <= t.retries() && !r.Stopped {
		t.Attempts++
		return []Effect{{Start: t.ID, Attempt: t.Attempts}}
	}
	r.failed(t, e.At)
	return nil
}

// failed applies the rule of a task whose attempts are used up.
func (r *Run) failed(t *Task, at time.Time) {
	switch t.onError() {
	case Continue:
		t.State, t.Ended = Ignored, at
	case Ask:
		t.State, t.Question = Asking, fmt.Sprintf("%s failed: %s. Answer retry, continue or stop.", t.Name(), t.Error)
	default:
		t.State, t.Ended = Failed, at
		r.Stopped, r.Error = true, fmt.Sprintf("%s failed: %s", t.Name(), t.Error)
	}
}

// answered takes in what a person says; it returns why it is no answer.
func (r *Run) answered(t *Task, e Event) (why string) {
	gate := t.Action != nil && t.Action.Ask != ""
	allowed := []string{"retry", "continue", "stop"}
	if gate {
		allowed = []string{"yes", "no"}
	}
	if !slices.Contains(allowed, e.Text) {
		return fmt.Sprintf("%s wants one of %v, not %q", t.ID, allowed, e.Text)
	}
	t.Answer, t.By, t.Question = e.Text, e.By, ""
	switch e.Text {
	case "yes":
		t.State, t.Ended = Done, e.At
	case "continue":
		t.State, t.Ended = Ignored, e.At
	case "retry":
		t.State = Waiting
	case "no":
		t.Error = "answered no"
		if t.onError() == Continue {
			t.State, t.Ended = Ignored, e.At
			return ""
		}
		fallthrough
	case "stop":
		t.State, t.Ended = Failed, e.At
		r.Stopped, r.Error = true, fmt.Sprintf("%s: %s", t.Name(), cmp.Or(t.Error, "stopped"))
	}
	return ""
}

// stop takes every task that is not over out of the run.
func (r *Run) stop(at time.Time, why string) (out []Effect) {
	r.Stopped = true
	for i := range r.Tasks {
		switch t := &r.Tasks[i]; t.State {
		case Running:
			t.State, t.Ended, t.Error = Cancelled, at, why
			out = append(out, Effect{End: t.ID})
		case Asking:
			t.State, t.Ended, t.Question = Cancelled, at, ""
		case Waiting:
			t.State = Skipped
		}
	}
	return out
}

// advance starts what may start, and finds out whether the run is over.
func (r *Run) advance(at time.Time) (out []Effect) {
	running, asking := false, false
	for i := 0; i < len(r.Tasks); {
		j := i
		for j < len(r.Tasks) && r.Tasks[j].Part == r.Tasks[i].Part {
			j++
		}
		over := true
		for k := i; k < j; k++ {
			t := &r.Tasks[k]
			if t.State == Waiting && !r.Stopped {
				out = append(out, r.start(t, at)...)
			}
			running = running || t.State == Running
			asking = asking || t.State == Asking
			over = over && t.over()
		}
		if !over {
			break
		}
		i = j
	}
	switch {
	case asking:
		r.State = RunAsking
	case running:
		r.State = RunActive
	default:
		r.finish(at)
	}
	return out
}

func (r *Run) start(t *Task, at time.Time) []Effect {
	if t.Started.IsZero() {
		t.Started = at
	}
	if t.Action != nil && t.Action.Ask != "" {
		t.State, t.Question = Asking, t.Action.Ask
		return nil
	}
	t.State = Running
	t.Attempts++
	return []Effect{{Start: t.ID, Attempt: t.Attempts}}
}

func (r *Run) finish(at time.Time) {
	r.Ended, r.State = at, RunDone
	for i := range r.Tasks {
		t := &r.Tasks[i]
		switch {
		case t.State == Waiting:
			t.State = Skipped
		case t.State == Ignored && r.State == RunDone:
			r.State = RunWarnings
		}
	}
	if r.Stopped {
		r.State = RunFailed
	}
}
