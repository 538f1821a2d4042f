package stages

import (
	"bytes"
	"crypto/sha256"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/streams/wire"
)

// What a real profile of real work says is given to the stage that did it.
func TestOf(t *testing.T) {
	var b bytes.Buffer
	if err := pprof.StartCPUProfile(&b); err != nil {
		t.Skip("another profile is being taken: ", err)
	}
	block := bytes.Repeat([]byte{1}, 1<<20)
	// By the processor's time: on a busy machine this test gets little of the clock's.
	for used, end := rig.SelfCPU(), time.Now().Add(2*time.Minute); rig.SelfCPU()-used < 400*time.Millisecond && time.Now().Before(end); {
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

// What waits and what allocates is found under the name of who asked for it.
func TestSince(t *testing.T) {
	before := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	defer func() { runtime.MemProfileRate = before }()
	take := func() []byte {
		runtime.GC() // the profile is as of the last collection
		var b bytes.Buffer
		if err := pprof.Lookup("allocs").WriteTo(&b, 0); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	work := func() {
		for range 100 {
			if _, err := wire.Encode(&wire.Event{}); err == nil {
				t.Fatal("an empty event was encoded") // it allocates its error
			}
		}
	}
	of := func(who []Count) (n int64) {
		for _, w := range who {
			if strings.HasPrefix(w.Function, "streams/wire.") {
				n += w.Value
			}
		}
		return n
	}
	work()
	first := take()
	work()
	second := take()
	all, err := Since(second, nil, 1000)
	if err != nil {
		t.Fatal(err)
	}
	since, err := Since(second, first, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if of(since) == 0 || of(all) < of(since)*3/2 || of(all) > of(since)*3 {
		t.Errorf("wire allocated %d bytes, %d of them later: want twice", of(all), of(since))
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
