package markers

import (
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/streams/wire"
)

// Plan says what barrier to make.
type Plan struct {
	ID          string // of this attempt, unique; a valid name of at most 24 characters
	Group       string
	Members     []string // machines, in the order of the marker
	Consistency wire.Consistency
	Limit       time.Duration // longest freeze of a member
	Every       time.Duration // the next barrier is due after it
	Patience    Patience
}

// Patience is how long the coordinator waits for the answers to each stage. For
// freeze it is Plan.Limit.
type Patience struct{ Call, Prepare, Close, Go time.Duration }

// DefaultPatience lets a busy machine copy for a while before it stands still.
var DefaultPatience = Patience{Call: 5 * time.Second, Prepare: time.Minute, Close: 20 * time.Second, Go: time.Minute}

func (p Plan) patience(s Stage) time.Duration {
	return map[Stage]time.Duration{Call: p.Patience.Call, Prepare: p.Patience.Prepare, Close: p.Patience.Close, Freeze: p.Limit, Go: p.Patience.Go}[s]
}

// Failure says why there is no point.
type Failure struct {
	Stage   Stage
	Machine string // who is to blame, the first of them; empty if the coordinator gave up
	Why     string
}

// Error is one sentence.
func (f *Failure) Error() string {
	if f.Machine == "" {
		return fmt.Sprintf("the barrier ended at stage %s: %s", f.Stage, f.Why)
	}
	return fmt.Sprintf("machine %s at stage %s: %s", f.Machine, f.Stage, f.Why)
}

// Effects is what a step of a barrier wants done: first the order to every member,
// then the rest.
type Effects struct {
	Send   *Order
	Commit *wire.Marker // publish it: the barrier has succeeded
	Failed *Failure     // there is no point
}

var stages = []Stage{Call, Prepare, Close, Freeze, Go}

// Barrier is the coordinator's part of one barrier. It does no I/O and reads no
// clock; time must not go backwards. The zero Barrier is not usable.
type Barrier struct {
	plan     Plan
	stage    int // index in stages
	answered map[string]bool
	members  map[string]*wire.Member
	began    time.Time
	entered  time.Time // the stage
	first    time.Time // answer to freeze
	at       time.Time // the instant of the cut
	point    string
	skew     time.Duration
	over     bool
}

// Begin starts a barrier.
func Begin(p Plan, now time.Time) (*Barrier, Effects) {
	b := &Barrier{plan: p, began: now, members: map[string]*wire.Member{}}
	if len(p.Members) == 0 {
		return b, b.fail("", "the group has no members")
	}
	return b, b.enter(now)
}

// Deadline is when Tick must be called if nothing else happens before; zero when the
// barrier is over.
func (b *Barrier) Deadline() time.Time {
	if b.over {
		return time.Time{}
	}
	return b.entered.Add(b.plan.patience(stages[b.stage]))
}

// Over reports whether the barrier has committed or failed.
func (b *Barrier) Over() bool { return b.over }

// Report takes in an answer. One that is late, doubled or of a stranger changes
// nothing.
func (b *Barrier) Report(now time.Time, r *Report) Effects {
	if b.over || r.Barrier != b.plan.ID || !slices.Contains(b.plan.Members, r.Machine) {
		return Effects{}
	}
	if r.Error != "" {
		return b.fail(r.Machine, r.Error)
	}
	stage := stages[b.stage]
	if r.Stage != stage || b.answered[r.Machine] {
		return Effects{}
	}
	if !now.Before(b.Deadline()) {
		return b.Tick(now) // the answer and the end of patience at once: too late
	}
	b.answered[r.Machine] = true
	switch stage {
	case Freeze:
		if b.first.IsZero() {
			b.first = now
		}
		b.skew = now.Sub(b.first)
	case Go:
		m := *r.Member
		m.Frozen = int64(r.Frozen)
		b.members[r.Machine] = &m
	}
	if len(b.answered) < len(b.plan.Members) {
		return Effects{}
	}
	if stage == Go {
		b.over = true
		return Effects{Commit: b.marker(now)}
	}
	b.stage++
	return b.enter(now)
}

// Tick ends the barrier if somebody has not answered in time.
func (b *Barrier) Tick(now time.Time) Effects {
	if b.over || now.Before(b.Deadline()) {
		return Effects{}
	}
	var silent []string
	for _, m := range b.plan.Members {
		if !b.answered[m] {
			silent = append(silent, m)
		}
	}
	return b.fail(silent[0], fmt.Sprintf("no answer within %v from %d of %d machines", b.plan.patience(stages[b.stage]), len(silent), len(b.plan.Members)))
}

// Cancel ends the barrier.
func (b *Barrier) Cancel(why string) Effects {
	if b.over {
		return Effects{}
	}
	return b.fail("", why)
}

func (b *Barrier) enter(now time.Time) Effects {
	b.entered, b.answered = now, map[string]bool{}
	o := b.order(stages[b.stage])
	switch o.Stage {
	case Freeze:
		b.point = now.UTC().Format("20060102T150405") + "-" + b.plan.ID
		o.Point = b.point
	case Go:
		b.at = now // everybody stands still
		o.Point, o.Time = b.point, now.UnixNano()
	}
	return Effects{Send: o}
}

func (b *Barrier) order(s Stage) *Order {
	return &Order{Barrier: b.plan.ID, Group: b.plan.Group, Stage: s, Consistency: b.plan.Consistency, Limit: b.plan.Limit, Every: b.plan.Every}
}

func (b *Barrier) fail(machine, why string) Effects {
	b.over = true
	f := &Failure{Stage: stages[b.stage], Machine: machine, Why: why}
	o := b.order(Abort)
	o.Why = clip(f.Error())
	return Effects{Send: o, Failed: f}
}

func (b *Barrier) marker(now time.Time) *wire.Marker {
	m := &wire.Marker{
		ID: b.point, Group: b.plan.Group, Time: b.at.UnixNano(), Consistency: b.plan.Consistency,
		Skew: int64(b.skew), Took: max(int64(now.Sub(b.began)), 1),
	}
	for _, name := range b.plan.Members {
		k := b.members[name]
		m.Frozen = max(m.Frozen, k.Frozen)
		m.Members = append(m.Members, *k)
	}
	return m
}

// clip shortens text to what a message may carry.
func clip(s string) string {
	if len(s) <= wire.MaxText {
		return s
	}
	cut := wire.MaxText
	for cut > 0 && s[cut]&0xC0 == 0x80 { // not within a rune
		cut--
	}
	return s[:cut]
}
