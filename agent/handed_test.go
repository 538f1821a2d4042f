package agent

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// An epoch may end while blocks are on their way inside the publisher: read, no
// longer dirty, and not yet links that the journal knows. None may be forgotten.
func TestEpochEndsWithBlocksInThePublisher(t *testing.T) {
	b := streamstest.Start(t)
	rec := receive(t.Context(), t, b, "m", "d")
	const blocks = 4096
	path := image(t, blocks)
	a, err := New(t.Context(), config(t, path), b, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	r := a.replicas[0]
	if err := r.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	onTheWay, noise := 0, rand.NewChaCha8([32]byte{1})
	for range 20 {
		want := make([]byte, blocks/2*wire.BlockSize)
		noise.Read(want)
		write(t, path, want)
		r.dirty.Add(0, blocks/2)
		if err := r.sendDirty(t.Context(), "round"); err != nil {
			t.Fatal(err)
		}
		r.pub.Close() // the epoch ends: a lost connection, a resend
		if linked := r.journal.blocks(); linked.Len() < r.handed.Len() {
			onTheWay++
		}
		// A message that was under way when the publisher ended may still land and look
		// like another agent's: sync tries again, and so does this.
		until(t, "the next epoch", func() bool { return r.open(t.Context()) == nil })
		lost := get(rec, func() (n int) {
			for i := range uint64(blocks / 2) {
				if !r.dirty.Has(i) && !bytes.Equal(rec.image[i], want[i*wire.BlockSize:(i+1)*wire.BlockSize]) {
					n++
				}
			}
			return n
		})
		if lost > 0 {
			t.Fatalf("%d blocks are neither received nor marked to be sent again", lost)
		}
		if onTheWay >= 3 {
			return
		}
	}
	t.Fatalf("the epoch ended %d times with blocks on their way, want 3: this test shows nothing", onTheWay)
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
}

// blocks returns what the journal holds without emptying it.
func (j *journal) blocks() *capture.Set {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := new(capture.Set)
	for _, g := range j.generations {
		all.Merge(&g.blocks)
	}
	return all
}
