package markers

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Settings is what control tells an agent of the policy of its machine. Fields that
// are 0 or empty leave the agent's own settings as they are.
type Settings struct {
	Machine       string        `json:"machine"`
	Policy        string        `json:"policy"` // its name, for people
	PointInterval time.Duration `json:"point_interval_ns,omitempty"`
	AppInterval   time.Duration `json:"app_interval_ns,omitempty"` // below 0: no application-consistent points
	FreezeLimit   time.Duration `json:"freeze_limit_ns,omitempty"` // an agent's own limit may be shorter
	Rate          int64         `json:"rate,omitempty"`            // bytes a second that it may send now, at most its own bound; below 0: its own bound
	CompressAt    string        `json:"compress_at,omitempty"`     // agent or process-server
	Capture       string        `json:"capture,omitempty"`         // auto, trace or scan
	// Fenced says why the agent must not publish changes now, and Fence is the number of
	// that fence; empty: it may.
	Fenced string `json:"fenced,omitempty"`
	Fence  uint64 `json:"fence,omitempty"`
	// FenceHolder is the one instance that may publish all the same.
	FenceHolder string `json:"fence_holder,omitempty"`
}

// Encode returns the bytes of s.
func (s *Settings) Encode() ([]byte, error) { return json.Marshal(s) }

// DecodeSettings reads settings, and refuses what no agent could follow.
func DecodeSettings(b []byte) (*Settings, error) {
	s := new(Settings)
	if err := decode(b, s); err != nil {
		return nil, err
	}
	if err := streams.ValidName("machine", s.Machine); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	switch {
	case s.PointInterval < 0 || s.PointInterval > 0 && s.PointInterval < 100*time.Millisecond || s.PointInterval > 24*time.Hour:
		return nil, fmt.Errorf("%w: point interval %v", ErrMalformed, s.PointInterval)
	case s.FreezeLimit < 0 || s.FreezeLimit > 10*time.Second:
		return nil, fmt.Errorf("%w: freeze limit %v", ErrMalformed, s.FreezeLimit)
	case len(s.Fenced) > wire.MaxText:
		return nil, fmt.Errorf("%w: reason of a fence has %d bytes", ErrMalformed, len(s.Fenced))
	case s.CompressAt != "" && s.CompressAt != "agent" && s.CompressAt != "process-server":
		return nil, fmt.Errorf("%w: compress at %q", ErrMalformed, s.CompressAt)
	case s.Capture != "" && s.Capture != "auto" && s.Capture != "trace" && s.Capture != "scan":
		return nil, fmt.Errorf("%w: capture %q", ErrMalformed, s.Capture)
	}
	return s, nil
}

// Quiet is what an agent says on streams.PolicyAsk when it has stopped publishing because
// its machine is fenced.
type Quiet struct {
	Machine string `json:"machine"`
	Fence   uint64 `json:"fence"`
	// Bytes is how much has changed on its disks and is not known to be in the vault.
	Bytes uint64 `json:"bytes"`
	Error string `json:"error,omitempty"` // why that is not known
}

// Encode returns the bytes of q.
func (q *Quiet) Encode() ([]byte, error) { return json.Marshal(q) }

// DecodeQuiet reads what Encode wrote.
func DecodeQuiet(b []byte) (*Quiet, error) {
	q := new(Quiet)
	if err := decode(b, q); err != nil {
		return nil, err
	}
	if err := streams.ValidName("machine", q.Machine); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if q.Fence == 0 || len(q.Error) > wire.MaxText {
		return nil, fmt.Errorf("%w: fence %d, error of %d bytes", ErrMalformed, q.Fence, len(q.Error))
	}
	return q, nil
}
