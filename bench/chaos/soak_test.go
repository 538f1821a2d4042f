package chaos

import (
	"math/rand/v2"
	"testing"
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
