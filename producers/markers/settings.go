package markers

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/streams"
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
	case s.CompressAt != "" && s.CompressAt != "agent" && s.CompressAt != "process-server":
		return nil, fmt.Errorf("%w: compress at %q", ErrMalformed, s.CompressAt)
	}
	return s, nil
}
