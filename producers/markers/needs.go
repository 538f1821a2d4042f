package markers

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/timing"
)

// Needs is what an agent says of itself when it asks control for its policy
// (streams.PolicyAsk), again and again: where it stands and how much it wants to
// send. An agent that is only just starting asks without it.
//
// Fields that a reader does not know it leaves out, so that agents may be newer than
// control, and older.
type Needs struct {
	Machine string `json:"machine"`
	Version string `json:"version,omitempty"`
	Host    string `json:"host,omitempty"`
	Kernel  string `json:"kernel,omitempty"`
	Since   int64  `json:"since"` // when its process started, nanoseconds since 1970; counters below begin there

	Rate       int64         `json:"rate,omitempty"`      // bytes a second that it may send now; 0: no bound
	SentBytes  uint64        `json:"sent_bytes"`          // encoded, given to the bus
	Waited     time.Duration `json:"waited_ns,omitempty"` // for Rate
	Refused    uint64        `json:"refused,omitempty"`   // times that the bus took nothing
	Trouble    string        `json:"trouble,omitempty"`   // why the bus takes nothing now
	Points     uint64        `json:"points"`              // cut
	Aborted    uint64        `json:"aborted,omitempty"`   // points that were given up
	Lost       uint64        `json:"lost,omitempty"`      // times that tracking lost something
	Heap       uint64        `json:"heap_bytes,omitempty"`
	Goroutines int           `json:"goroutines,omitempty"`
	Acks       timing.Counts `json:"acks"` // from the cut of a disk until the bus had all up to it

	Disks []DiskNeeds `json:"disks"`
}

// DiskNeeds is where one disk stands.
type DiskNeeds struct {
	Disk        string `json:"disk"`
	Driver      string `json:"driver,omitempty"`
	Dirty       uint64 `json:"dirty_bytes"`          // changed and not sent, as far as it was looked at
	Unconfirmed uint64 `json:"unconfirmed_bytes"`    // sent, and not yet in the vault
	Left        uint64 `json:"left_bytes,omitempty"` // of the disk, still to be compared with the vault
}

// Encode returns the bytes of n.
func (n *Needs) Encode() ([]byte, error) { return json.Marshal(n) }

// DecodeNeeds reads needs, and refuses what no agent can have said.
func DecodeNeeds(b []byte) (*Needs, error) {
	if len(b) > maxMessage {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), maxMessage)
	}
	n := new(Needs)
	if err := json.Unmarshal(b, n); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := streams.ValidName("machine", n.Machine); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, d := range n.Disks {
		if err := streams.ValidName("disk", d.Disk); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	if n.Rate < 0 || n.Waited < 0 || n.Goroutines < 0 {
		return nil, fmt.Errorf("%w: a negative number", ErrMalformed)
	}
	if !n.Acks.Valid() {
		n.Acks = timing.Counts{} // of a version with other bounds
	}
	return n, nil
}
