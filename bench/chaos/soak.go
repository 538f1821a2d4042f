package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
)

// Sample is what the programs held at one moment.
type Sample struct {
	At         time.Duration `json:"at"`       // since the soak began
	Heap       float64       `json:"heap"`     // of the appliance: bytes in use when garbage was last collected
	Resident   float64       `json:"resident"` // of the appliance
	Goroutines float64       `json:"goroutines"`
	AgentHeap  float64       `json:"agent_heap"`
	AgentGo    float64       `json:"agent_goroutines"`
}

const (
	sampleEvery = time.Second
	// warmUp is the part of a soak in which caches fill: it is left out.
	warmUp = 0.25
	// windows is in how many parts the rest is looked at. What is under way when garbage is
	// collected is chance; the least of a window is what is really held.
	windows = 4
)

// Flat says why a figure has grown from the first window after the warm-up to the last,
// "" if it has not. A tenth and slack are allowed: less is noise. Fewer than thirty
// samples a window say nothing: the programs have only just begun.
func Flat(name string, all []float64, slack float64) string {
	all = all[int(warmUp*float64(len(all))):]
	n := len(all) / windows
	if n < 30 {
		return ""
	}
	first, last := slices.Min(all[:n]), slices.Min(all[len(all)-n:])
	if last > first*1.1+slack {
		return fmt.Sprintf("%s has grown from %.0f to %.0f", name, first, last)
	}
	return ""
}

// figure is one of those that must not grow, and that at its least must not be above most.
type figure struct {
	name  string
	slack float64
	most  float64
	agent bool // of an agent: it is looked at in the last one's life only
	get   func(Sample) float64
}

// The slack of heaps is for caches that still fill after the warm-up of a short soak: nats-server's
// take four minutes. What an agent holds is what is on its way; an agent that has ended holds
// nothing, so one agent's heap says nothing about the next one's.
var figures = []figure{
	{"the appliance's heap", 24 << 20, 256 << 20, false, func(s Sample) float64 { return s.Heap }},
	{"the appliance's goroutines", 20, 2000, false, func(s Sample) float64 { return s.Goroutines }},
	{"the agent's heap", 16 << 20, 128 << 20, true, func(s Sample) float64 { return s.AgentHeap }},
	{"the agent's goroutines", 10, 200, true, func(s Sample) float64 { return s.AgentGo }},
}

// Grown lists what was not flat, and what was too much all the time.
func (r *Result) Grown() (all []string) {
	for _, f := range figures {
		_, x := r.course(f)
		if why := Flat(f.name, x, f.slack); why != "" {
			all = append(all, why)
		}
		if len(x) > 0 && slices.Min(x) > f.most {
			all = append(all, fmt.Sprintf("%s is %.0f at its least, above %.0f", f.name, slices.Min(x), f.most))
		}
	}
	return all
}

// sayLag is how old what an agent has said of itself can be: it says so every 15 s.
const sayLag = 20 * time.Second

// course is what a figure was, and when.
func (r *Result) course(f figure) (at []time.Duration, x []float64) {
	for _, s := range r.Samples {
		if f.agent && s.At < r.Spared+sayLag {
			continue
		}
		if v := f.get(s); v > 0 { // 0: it was not there to be asked
			at, x = append(at, s.At), append(x, v)
		}
	}
	return at, x
}

// Trend is a straight line through the least of what was held in each of some parts of a
// soak, without the warm-up.
type Trend struct {
	Name  string  `json:"name"`
	Held  float64 `json:"held"`  // in the last part
	Slope float64 `json:"slope"` // an hour
	Fit   float64 `json:"fit"`   // R squared: near 0 there is no trend
}

// trendParts is how many parts there are.
const trendParts = 12

// Trends says how steeply the figures rose. A soak that is too short has none.
func (r *Result) Trends() (all []Trend) {
	for _, f := range figures {
		at, x := r.course(f)
		skip := int(warmUp * float64(len(x)))
		at, x = at[skip:], x[skip:]
		n := len(x) / trendParts
		if n < 5 {
			continue
		}
		var hours, least []float64
		for i := range trendParts {
			hours = append(hours, at[i*n+n/2].Hours())
			least = append(least, slices.Min(x[i*n:(i+1)*n]))
		}
		slope, fit := report.Line(hours, least)
		all = append(all, Trend{f.name, least[trendParts-1], slope, fit})
	}
	return all
}

// soak disturbs the programs again and again without ending the appliance, and takes
// samples. The agent is killed and upgraded in the first half only: in the second one
// agent lives through all the rest, long enough for what it loses to be seen. manage is
// the address of the appliance's management port.
func (t *trial) soak(ctx context.Context, manage string) (err error) {
	began := time.Now()
	sampling, stop := context.WithCancel(ctx)
	sampled := make(chan []Sample, 1)
	go func() { sampled <- t.sample(sampling, manage, began) }()
	defer func() {
		stop()
		t.res.Samples = <-sampled
	}()
	for i := 0; time.Since(began) < t.o.For; i++ {
		at := time.Now()
		spare := time.Since(began) > t.o.For/2
		if spare && t.res.Spared == 0 {
			t.res.Spared = time.Since(began)
		}
		what, err := t.disturb(ctx, spare)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		over := time.Now()
		p, err := t.await(ctx, over)
		if err != nil {
			t.bad("after %s: %v; the agent's last words: %s; the appliance's: %s", what, err, t.agent.Words(), t.appliance.Words())
			return fmt.Errorf("%s: %w", what, err)
		}
		t.res.Kills = append(t.res.Kills, Kill{At: at, Victim: what, Recovery: time.Since(over)})
		if i%20 == 0 {
			t.o.Say("%v: %s, a new point %v later", time.Since(began).Round(time.Second), what, time.Since(over).Round(time.Millisecond))
		}
		if err := t.note(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// disturb waits a little and does one thing that happens; the agent outlives it if spare.
func (t *trial) disturb(ctx context.Context, spare bool) (what string, err error) {
	wait := time.NewTimer(time.Duration(t.rnd.Int64N(int64(3 * time.Second))))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	d := time.Duration(t.rnd.Int64N(int64(4*time.Second))) + 200*time.Millisecond
	fault := t.rnd.IntN(5)
	if spare {
		fault = 2 + t.rnd.IntN(3)
	}
	switch fault {
	case 0:
		return "the agent killed", t.agent.Kill()
	case 1:
		return "the agent upgraded", t.agent.Restart(20 * time.Second)
	case 2:
		return "the agent paused", t.agent.Pause(ctx, d)
	case 3:
		return "the appliance paused", t.appliance.Pause(ctx, d)
	}
	return "the store away", t.away(ctx, 2*d)
}

// away takes the vault's directory away for a while. With a bus of 64 MiB that is
// longer than its budget for one disk lasts, under load.
func (t *trial) away(ctx context.Context, d time.Duration) error {
	at := product.Vault(t.site.Dir)
	if err := os.Rename(at, at+".away"); err != nil {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return errors.Join(os.Rename(at+".away", at), context.Cause(ctx))
}

// sample asks both programs every second until ctx ends.
func (t *trial) sample(ctx context.Context, manage string, began time.Time) (all []Sample) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return all
		case <-tick.C:
		}
		m, err := metrics(ctx, manage)
		if err != nil {
			continue // it is paused; that it goes on is said by the points
		}
		all = append(all, Sample{
			At: time.Since(began), Heap: m["go_gc_heap_live_bytes"], Resident: m["process_resident_memory_bytes"], Goroutines: m["go_goroutines"],
			AgentHeap: m[`leeward_agent_heap_bytes{machine="`+machine+`"}`], AgentGo: m[`leeward_agent_goroutines{machine="`+machine+`"}`],
		})
	}
}

// metrics reads what an appliance tells Prometheus.
func metrics(ctx context.Context, manage string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+manage+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	out := map[string]float64{}
	s := bufio.NewScanner(io.LimitReader(r.Body, 8<<20))
	for s.Scan() {
		name, value, ok := strings.Cut(s.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && name != "#" {
			out[name] = v
		}
	}
	return out, s.Err()
}
