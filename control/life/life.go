package life

import (
	"time"

	"github.com/leeward-dr/leeward/control/failover"
)

// Phase is where a machine stands.
type Phase string

// The phases; see the package's table.
const (
	Protected    Phase = "protected"
	Checking     Phase = "checking"
	Draining     Phase = "draining"
	Fencing      Phase = "fencing"
	Stopping     Phase = "stopping-source"
	Bringing     Phase = "bringing-up"
	FailedOver   Phase = "failed-over"
	Down         Phase = "failover-failed"
	Changing     Phase = "changing-point"
	Ending       Phase = "cancelling"
	Releasing    Phase = "releasing-source"
	Committed    Phase = "committed"
	Reprotecting Phase = "re-protecting"
	Ready        Phase = "failback-ready"
	Unprotecting Phase = "ending-re-protection"
	Returning    Phase = "failing-back"
	Returned     Phase = "failed-back"
	Staying      Phase = "cancelling-failback"
	Settling     Phase = "settling-at-home"
	Completing   Phase = "completing"
	Migrated     Phase = "migrated"
	Disabling    Phase = "disabling"
	Disabled     Phase = "not-protected"
)

// Phases lists all phases in the order of the table.
func Phases() []Phase {
	return []Phase{Protected, Checking, Draining, Fencing, Stopping, Bringing, FailedOver, Down, Changing, Ending, Releasing, Committed,
		Reprotecting, Ready, Unprotecting, Returning, Returned, Staying, Settling, Completing, Migrated, Disabling, Disabled}
}

// Order is what an operator asked of a failover or a failback.
type Order struct {
	ID      string           `json:"request_id,omitempty"` // the same id twice is the same failover
	Point   string           `json:"point,omitempty"`      // see failover.Select
	Target  string           `json:"target,omitempty"`
	Options failover.Options `json:"options,omitzero"`
	// Planned makes a final point first, and loses nothing or does not happen.
	Planned bool `json:"planned,omitempty"`
	// Together makes this one of several planned failovers that are one; control sets it.
	Together *Together `json:"together,omitempty"`
	// Quiesce is a command that stops the applications before the final point.
	Quiesce string `json:"quiesce,omitempty"`
	// MaxLoss is how many bytes may have changed on the source after the final point.
	MaxLoss uint64 `json:"max_loss_bytes,omitempty"`
	// Shutdown is a command that turns the source off once it is fenced.
	Shutdown string `json:"shutdown,omitempty"`
	// Home says where each disk is to be written during failback: a path on the host that
	// does it.
	Home map[string]string `json:"home,omitempty"`
	// DropHistory removes the machine's own points when it is no longer protected.
	DropHistory bool `json:"drop_history,omitempty"`
}

// Life is the state of one machine, as it is kept.
type Life struct {
	Schema     string    `json:"schema,omitempty"` // leeward.life.v1
	Machine    string    `json:"machine"`
	Phase      Phase     `json:"phase"`
	Since      time.Time `json:"since"`
	By         string    `json:"by,omitempty"` // who asked last
	Order      Order     `json:"order,omitzero"`
	Point      string    `json:"point,omitempty"`      // id of the point that was chosen
	Job        string    `json:"job,omitempty"`        // that keeps the copy
	Generation uint64    `json:"generation,omitempty"` // of its fence; grows with every failover
	Loss       *uint64   `json:"loss_bytes,omitempty"` // changed on the source after the final point, if that is known
	Attempt    uint64    `json:"attempt"`              // of the phase's work; never the same twice
	Failures   int       `json:"failures,omitempty"`   // of this phase's work in a row
	Error      string    `json:"error,omitempty"`      // of the work that failed last
	Past       []Stage   `json:"past,omitempty"`       // the newest last
}

// Stage is a phase that a machine went through.
type Stage struct {
	Phase Phase     `json:"phase"`
	At    time.Time `json:"at"`
	By    string    `json:"by,omitempty"`
	Why   string    `json:"why,omitempty"`
}

// maxPast is how many phases are remembered: some failovers and failbacks.
const maxPast = 64

// New is the life of a machine that nobody did anything to.
func New(machine string) *Life { return &Life{Machine: machine, Phase: Protected} }

// Clone returns a copy that shares nothing that Step changes.
func (l *Life) Clone() *Life {
	c := *l
	c.Past = append([]Stage(nil), l.Past...)
	return &c
}

// Working reports whether the phase has work, which leads out of it.
func (p Phase) Working() bool { return table[p].work }

// Known reports whether p is a phase.
func (p Phase) Known() bool { _, ok := table[p]; return ok }

// Fenced reports whether the source must be fenced in this phase: a copy may run, or the
// machine is not to be protected. In the phases that put a fence up or take it away it
// may be either.
func (p Phase) Fenced() bool {
	switch p {
	case Protected, Checking, Draining, Fencing, Releasing, Settling, Disabling:
		return false
	}
	return p.Known()
}

// Away reports whether the machine is not protected at home in this phase, and so need
// not have new points from there.
func (p Phase) Away() bool {
	switch p {
	case Protected, Checking, Draining:
		return false
	}
	return p.Known()
}

// Copied reports whether the machine is protected at the recovery site in this phase, and
// so must have new points from there.
func (p Phase) Copied() bool { return p == Ready || p == Staying }

// Undo says what a cancel does in this phase; "" if there is nothing to cancel.
func (p Phase) Undo() string {
	switch p {
	case Checking:
		return "nothing was done yet; the machine stays protected"
	case Draining, Fencing:
		return "the source's agent goes on, nothing is lost"
	case Stopping:
		return "the source may write again; if it was turned off, turn it on yourself"
	case Bringing, FailedOver, Down, Changing:
		return "the copy is ended and what it wrote is lost; the source may write again, and must be turned on if it is off"
	case Reprotecting, Ready:
		return "the copy runs on and is no longer protected"
	case Returning, Returned:
		return "the machine runs at the recovery site again; what was written at home is of no use"
	}
	return ""
}
