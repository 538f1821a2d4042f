package chaos

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// What grows is found under the garbage that lies on it, what does not is not.
func TestFlat(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var leaks, still, short []float64
	for i := range 600 {
		garbage := r.Float64() * 60 // collected when there is as much again
		leaks = append(leaks, 50+float64(i)/20+garbage)
		still = append(still, min(50, 10+float64(i))+garbage)
	}
	for i := range 100 {
		short = append(short, float64(i*i))
	}
	if why := Flat("leaking", leaks, 4); why == "" {
		t.Error("a leak of half the heap was not found")
	}
	for name, x := range map[string][]float64{"still": still, "short": short, "none": nil} {
		if why := Flat(name, x, 4); why != "" {
			t.Error(why)
		}
	}
}

func TestGrown(t *testing.T) {
	r := &Result{}
	for i := range 200 {
		r.Samples = append(r.Samples, Sample{Heap: 40 << 20, Goroutines: float64(100 + 3*i), AgentHeap: 20 << 20, AgentGo: 30})
	}
	if g := r.Grown(); len(g) != 1 {
		t.Errorf("grown is %q, want the appliance's goroutines alone", g)
	}
}

// Agents that end hold what they like; the last one must not grow, nor hold too much.
func TestGrownAgent(t *testing.T) {
	r := &Result{Spared: 100 * time.Second}
	for i := range 400 {
		heap := 20 << 20
		if i < 100 {
			heap += i % 10 * 20 << 20
		}
		r.Samples = append(r.Samples, Sample{At: time.Duration(i) * time.Second, AgentHeap: float64(heap)})
	}
	if g := r.Grown(); g != nil {
		t.Errorf("grown is %q, and the last agent has held the same all the time", g)
	}
	for i := range r.Samples {
		r.Samples[i].AgentHeap += float64(i * 200_000)
	}
	if g := r.Grown(); len(g) != 1 {
		t.Errorf("grown is %q, want the agent's heap", g)
	}
	r.Samples = r.Samples[:150]
	for i := range r.Samples {
		r.Samples[i].AgentHeap = 200 << 20
	}
	if g := r.Grown(); len(g) != 1 {
		t.Errorf("grown is %q, want the agent's heap, which is too much", g)
	}
}

// A straight rise is found with its slope, and what only goes up and down has none.
func TestTrends(t *testing.T) {
	r := &Result{}
	for i := range 400 {
		r.Samples = append(r.Samples, Sample{
			At: time.Duration(i) * time.Second, Heap: 40<<20 + float64(i)*3600 + float64(i%7)*1000, Goroutines: float64(100 + i%5), AgentHeap: 20 << 20,
		})
	}
	all := r.Trends()
	if len(all) != 3 { // the agent's goroutines were never seen
		t.Fatalf("trends are %+v", all)
	}
	if h := all[0]; h.Fit < 0.99 || math.Abs(h.Slope/(3600*3600)-1) > 0.05 || h.Held < 40<<20 {
		t.Errorf("a heap that grows by %d bytes an hour: %+v", 3600*3600, h)
	}
	for _, still := range all[1:] {
		if math.Abs(still.Slope) > 1 {
			t.Errorf("what is still: %+v", still)
		}
	}
	if all := (&Result{Samples: r.Samples[:60]}).Trends(); all != nil {
		t.Errorf("a minute has trends: %+v", all)
	}
}
