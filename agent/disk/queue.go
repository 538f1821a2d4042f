package disk

import "errors"

// ErrNoQueue means that reads of a disk cannot be given to the kernel here: read with
// ReadBlocks.
var ErrNoQueue = errors.New("the kernel takes no queue of reads")

// Reads are reads of a disk that are under way, none of which a goroutine waits for.
type Reads interface {
	// Submit begins to read blocks from start on into buf, which is as for ReadBlocks, of
	// AlignedBuffer's kind, and must not be touched before Wait has returned tag. It is
	// called by one goroutine at a time, for no more reads than there may be.
	Submit(tag int, start uint64, buf []byte) error
	// Wait waits for the end of any read that is under way, and says which and how it went.
	// There must be one for each goroutine that waits. A tag below 0: nothing can be waited
	// for any more, which no kernel should say.
	Wait() (tag int, err error)
	// Close waits for all that is under way. Nobody may wait any more.
	Close()
}
