package stages

import (
	"bytes"
	"crypto/sha256"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/streams/wire"
)

// What a real profile of real work says is given to the stage that did it.
func TestOf(t *testing.T) {
	var b bytes.Buffer
	if err := pprof.StartCPUProfile(&b); err != nil {
		t.Skip("another profile is being taken: ", err)
	}
	block := bytes.Repeat([]byte{1}, 1<<20)
	for end := time.Now().Add(400 * time.Millisecond); time.Now().Before(end); {
		wire.HashOf(block)
		sha256.Sum256(block[:1<<18]) // of no stage
	}
	pprof.StopCPUProfile()
	uses, err := Of(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	got, all := map[string]time.Duration{}, time.Duration(0)
	for _, u := range uses {
		got[u.Stage] += u.CPU
		all += u.CPU
	}
	if all < 50*time.Millisecond { // a busy machine takes few samples, but some
		t.Fatalf("the profile has only %v", all)
	}
	hash, rest := got["wire: hash of links"], got[Rest]
	if hash < all/2 || rest == 0 || rest > hash {
		t.Errorf("of %v hashing has %v and the rest %v, want about 4 to 1", all, hash, rest)
	}
	top, err := Top(b.Bytes(), 3)
	if err != nil || len(top) == 0 || top[0].CPU < all/2 {
		t.Errorf("top: %v, %v", top, err)
	}
}

func FuzzOf(f *testing.F) {
	var b bytes.Buffer
	if pprof.StartCPUProfile(&b) == nil {
		pprof.StopCPUProfile()
	}
	f.Add(b.Bytes())
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Of(b) })
}
