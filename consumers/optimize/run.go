package optimize

import (
	"time"

	"github.com/leeward-dr/leeward/streams/wire"
)

// Link is one link of a disk's chain and the hash of its encoded form. The Change
// must have passed wire.DecodeChange.
type Link struct {
	Change *wire.Change
	Hash   wire.Hash
}

// Limits say when a run of links is full. Zero means no limit.
type Limits struct {
	Bytes   int64         // packed bytes of data, as they came
	Age     time.Duration // since the first link arrived
	Links   int
	Extents int
}

// Default is what the table in the package comment says.
func Default() Limits {
	return Limits{Bytes: 16 << 20, Age: time.Second, Links: 2048, Extents: 64 << 10}
}

// Run counts what a run of links has gathered. The zero Run is empty.
type Run struct {
	Links   int
	Extents int
	Bytes   int64 // packed bytes of data
	Since   time.Time
}

// Add counts a link that arrived at now.
func (r *Run) Add(c *wire.Change, now time.Time) {
	if r.Links == 0 {
		r.Since = now
	}
	r.Links++
	if c.Block != nil {
		r.Bytes += int64(len(c.Block.Data))
		r.Extents += len(c.Block.Extents)
	}
}

// Full reports whether r takes no more links.
func (r *Run) Full(l Limits) bool {
	return l.Bytes > 0 && r.Bytes >= l.Bytes || l.Links > 0 && r.Links >= l.Links || l.Extents > 0 && r.Extents >= l.Extents
}

// Due returns when r has waited long enough; the zero time if it is empty.
func (r *Run) Due(l Limits) time.Time {
	if r.Links == 0 {
		return time.Time{}
	}
	return r.Since.Add(l.Age)
}

// Ends reports whether a run ends behind c, whatever it has gathered.
func Ends(c *wire.Change) bool { return c.Kind == wire.KindCut || c.Kind == wire.KindOpen }

// Starts reports whether a run must end before c.
func Starts(c *wire.Change) bool { return c.Kind == wire.KindOpen }
