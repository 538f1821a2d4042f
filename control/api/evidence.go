package api

import "context"

// The most that an answer holds of what a machine showed, in bytes.
const (
	MaxSerial = 64 << 10
	MaxScreen = 512 << 10
)

// Evidence is what the machine of a job showed until now. Schema "leeward.evidence.v1".
type Evidence struct {
	Schema      string `json:"schema"`
	Job         string `json:"job"`
	Serial      string `json:"serial,omitempty"`       // the end of what it said on its serial line
	SerialBytes int64  `json:"serial_bytes,omitempty"` // how much it said in all
	ScreenBytes int64  `json:"screen_bytes,omitempty"` // of the picture of its screen, of when its life was proved or given up
	Screen      []byte `json:"screen,omitempty"`       // PNG, if it was asked for
}

// EvidenceRequest asks for it, with or without the picture.
type EvidenceRequest struct {
	Job    string `json:"job"`
	Screen bool   `json:"screen,omitempty"`
}

// Witness shows what the machine of a job showed. A Backend that implements it answers
// evidence.show.
type Witness interface {
	Evidence(ctx context.Context, r EvidenceRequest) (*Evidence, error)
}

func (s *Server) witnessed() []endpoint {
	return []endpoint{ask("evidence", "show", "leeward.evidence.v1", func(ctx context.Context, r EvidenceRequest) (*Evidence, error) {
		w, ok := s.backend.(Witness)
		if !ok {
			return nil, Errorf(CodeRefused, "", "this control keeps no evidence")
		}
		return w.Evidence(ctx, r)
	})}
}

// Evidence asks what the machine of a job showed. Of a job that was cleaned nothing is left.
func (c *Client) Evidence(ctx context.Context, r EvidenceRequest) (*Evidence, error) {
	return call[Evidence](ctx, c, "evidence.show", r)
}
