package trace

import (
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
)

// flight are the discards that were handed to a disk and may not have been done yet, on a
// disk whose kernel joins discards of different places into one request. The event of a
// completed request then names the first place only; the event of a bio that is handed to
// the disk names its own. So what was handed over is pending, in every Take, until as many
// sectors were completed as were handed over: then nothing is under way. One moment at
// which both sums are equal settles everything before it, whatever the order was.
type flight struct {
	pending *capture.Set
	before  uint64 // sectors completed that were handed over before the sum of those began
	moved   time.Time
	last    uint64 // sectors completed when it was last looked
}

func newFlight() flight { return flight{pending: new(capture.Set)} }

// stuckAfter is how long discards may be pending though none is completed any more. The
// kernel gives a request up long before.
const stuckAfter = 10 * time.Minute

// settled says whether all that was handed over is done: done are the sectors of all
// events of completion up to some moment, queued those handed over up to a later one. An
// error if more was completed than handed over.
func (f *flight) settled(queued, done uint64) (bool, error) {
	if done > queued+f.before {
		return false, fmt.Errorf("discards of %d sectors were completed that nobody was seen to hand over", done-queued-f.before)
	}
	return done == queued+f.before, nil
}

// absorb takes what was completed and not seen handed over for older than the recording.
// It says whether there was any.
func (f *flight) absorb(queued, done uint64) bool {
	if done <= queued+f.before {
		return false
	}
	f.before = done - queued
	return true
}

// stuck names discards that never end.
func (f *flight) stuck(now time.Time, done uint64) error {
	if f.pending.Len() == 0 || done != f.last || f.moved.IsZero() {
		f.last, f.moved = done, now
	}
	if d := now.Sub(f.moved); f.pending.Len() > 0 && d > stuckAfter {
		return fmt.Errorf("discards that were handed over %v ago were never completed", d.Round(time.Second))
	}
	return nil
}
