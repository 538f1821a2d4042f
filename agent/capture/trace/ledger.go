package trace

// ledger compares the sectors that the driver saw written with those that the
// kernel counted since boot. The two differ by what was written before the driver
// began: a constant, of which a range is known at first and the exact value as
// soon as the disk was seen at rest once.
type ledger struct {
	lo, hi uint64 // the constant is in lo..hi
}

// newLedger begins with the kernel's count before and after tracing was switched
// on, the driver having seen nothing.
func newLedger(before, after uint64) ledger { return ledger{before, after} }

// reading is the kernel's count before and after the ring was drained, and what
// the driver had seen after that.
type reading struct {
	before, after uint64
	seen          uint64
	inflight      bool // requests were in flight at either time
}

// judge says whether a reading fits, and narrows the ledger by a reading that was
// taken at rest. A busy disk's reading fits if it can be explained.
func (l *ledger) judge(r reading) bool {
	lo, hi := r.before-r.seen, r.after-r.seen
	if r.before < r.seen {
		// More seen than ever counted: only an unsettled counter explains that.
		return false
	}
	if lo > l.hi || hi < l.lo {
		return false
	}
	if r.before == r.after && !r.inflight {
		l.lo, l.hi = max(l.lo, lo), min(l.hi, hi)
	}
	return true
}
