package markers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Stage is a step of a barrier.
type Stage string

// The stages in their order, and Abort, which ends a barrier at any of them.
const (
	Call    Stage = "call"
	Prepare Stage = "prepare"
	Close   Stage = "close"
	Freeze  Stage = "freeze"
	Go      Stage = "go"
	Abort   Stage = "abort"
)

// Order tells a member to do a stage.
type Order struct {
	Barrier     string           `json:"barrier"` // which barrier; an id of its own for each attempt
	Group       string           `json:"group"`
	Stage       Stage            `json:"stage"`
	Consistency wire.Consistency `json:"consistency"`
	Point       string           `json:"point,omitempty"`    // freeze, go: the id that the point will have
	Time        int64            `json:"time,omitempty"`     // go: the instant of the cut, Unix nanoseconds
	Limit       time.Duration    `json:"limit_ns,omitempty"` // longest freeze; a member's own limit may be shorter
	Every       time.Duration    `json:"every_ns,omitempty"` // the next barrier is due after it: no points alone meanwhile
	Why         string           `json:"why,omitempty"`      // abort: one sentence
}

// Report is a member's answer.
type Report struct {
	Barrier string        `json:"barrier"`
	Machine string        `json:"machine"`
	Stage   Stage         `json:"stage"`               // that it answers
	Error   string        `json:"error,omitempty"`     // why it cannot be done: aborts the barrier
	Frozen  time.Duration `json:"frozen_ns,omitempty"` // go: how long it stood still
	Member  *wire.Member  `json:"member,omitempty"`    // go: the machine and its cuts
}

// maxMessage bounds what a decoder takes: a member has at most some thousand disks.
const maxMessage = 1 << 20

// ErrMalformed means that bytes are no order or report.
var ErrMalformed = errors.New("malformed barrier message")

// DecodeOrder reads an order, and refuses what no coordinator sends.
func DecodeOrder(b []byte) (*Order, error) {
	o := new(Order)
	if err := decode(b, o); err != nil {
		return nil, err
	}
	if err := checkNames(o.Barrier, "group", o.Group); err != nil {
		return nil, err
	}
	switch o.Stage {
	case Call, Prepare, Close, Abort:
	case Freeze, Go:
		if err := streams.ValidName("point", o.Point); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	default:
		return nil, fmt.Errorf("%w: unknown stage %q", ErrMalformed, o.Stage)
	}
	if o.Consistency != wire.Crash && o.Consistency != wire.App || o.Limit < 0 || o.Every < 0 || len(o.Why) > wire.MaxText {
		return nil, fmt.Errorf("%w: consistency %q, limit %v, every %v", ErrMalformed, o.Consistency, o.Limit, o.Every)
	}
	return o, nil
}

// DecodeReport reads a report, and refuses what no member sends.
func DecodeReport(b []byte) (*Report, error) {
	r := new(Report)
	if err := decode(b, r); err != nil {
		return nil, err
	}
	if err := checkNames(r.Barrier, "machine", r.Machine); err != nil {
		return nil, err
	}
	switch r.Stage {
	case Call, Prepare, Close, Freeze, Go:
	default:
		return nil, fmt.Errorf("%w: report of stage %q", ErrMalformed, r.Stage)
	}
	if len(r.Error) > wire.MaxText || r.Frozen < 0 {
		return nil, fmt.Errorf("%w: error of %d bytes, frozen for %v", ErrMalformed, len(r.Error), r.Frozen)
	}
	if r.Stage == Go && r.Error == "" {
		// What stands in the marker is checked as a marker is.
		if r.Member == nil || r.Member.Machine != r.Machine {
			return nil, fmt.Errorf("%w: machine %s reports no cut of its own", ErrMalformed, r.Machine)
		}
		m := &wire.Marker{ID: "x", Group: "x", Consistency: wire.Crash, Members: []wire.Member{*r.Member}}
		if _, err := wire.Encode(m); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	return r, nil
}

func checkNames(barrier, kind, name string) error {
	if err := streams.ValidName("barrier", barrier); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := streams.ValidName(kind, name); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// decode reads one JSON document without unknown fields.
func decode(b []byte, v any) error {
	if len(b) > maxMessage {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), maxMessage)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: more than one document", ErrMalformed)
	}
	return nil
}
