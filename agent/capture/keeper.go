package capture

import "fmt"

// Mark is a place in the chain of a disk: everything up to a link of an epoch.
type Mark struct{ Epoch, Number uint64 }

// String is the mark as people see it.
func (m Mark) String() string { return fmt.Sprintf("link %d of epoch %d", m.Number, m.Epoch) }

// Fits says whether a vault that stands at base lacks no more than what its writer has
// not seen confirmed, the writer having seen mark confirmed and having written every
// epoch from since to last; if not, why.
func Fits(mark Mark, since, last uint64, base Mark) error {
	switch {
	case base.Epoch < mark.Epoch, base.Epoch == mark.Epoch && base.Number < mark.Number:
		return fmt.Errorf("the vault stands at %v, before %v, which it had confirmed", base, mark)
	case base.Epoch == mark.Epoch:
		return nil
	case base.Epoch > last:
		return fmt.Errorf("the vault stands at %v, which another agent has sent: ours ended with epoch %d", base, last)
	case since > mark.Epoch+1:
		return fmt.Errorf("another agent sent changes between epoch %d and %d", mark.Epoch, since)
	}
	return nil
}

// Keeper is a Source that goes on recording while no process follows the disk, so
// that the next one need not compare all of it. What it keeps is tied to where the
// vault stands: "the vault holds the disk as it was at the mark, but for the blocks
// that are kept". All methods may be called by any goroutine.
type Keeper interface {
	Source

	// Resumed says, after Start, that what an earlier process left was taken over
	// (nil: the first Take returns what that process did not see confirmed, and what
	// was written since) or why it could not be.
	Resumed() error

	// Fits says whether a vault that stands at base lacks no more than what the first
	// Take after a takeover returns; if not, why.
	Fits(base Mark) error

	// Opening must be called before an epoch is opened: from then on the vault may
	// stand there.
	Opening(epoch uint64)

	// Seal says that everything taken so far is in the chain up to m. It is forgotten
	// when the vault has confirmed m.
	Seal(m Mark)

	// Confirm says that the vault holds everything up to m.
	Confirm(m Mark)

	// Void says that nothing is known of what the vault lacks: until the next mark
	// is confirmed nothing can be taken over.
	Void()

	// Discard makes Close remove everything instead of leaving it for the next process.
	Discard()
}
