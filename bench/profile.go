package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/corpus"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/bench/stages"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/target/disk"
)

// scenarios are what can be profiled, in the order in which they build on each other.
var scenarios = []string{"pipe", "initial", "delta", "scan", "restore", "first-read"}

// firstReads is how often the first read is done for a profile: once is too short.
const firstReads = 40

// memoryRate is how many bytes are allocated between two samples.
const memoryRate = 64 << 10

// runProfile does scenarios with agent and appliance in this process and leaves what the
// runtime saw: processor time, allocations, waiting and contention.
func runProfile(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench profile", flag.ContinueOnError)
	var c common
	c.add(f)
	size := bytesFlag(512 << 20)
	f.Var(&size, "size", "`size` of the disk")
	only := f.String("scenario", "all", "which, with commas: "+strings.Join(scenarios, ", "))
	out := f.String("out", "", "`directory` for the profiles (default: RESULTS/profile)")
	if err := parse(f, args); err != nil {
		return err
	}
	wanted := scenarios
	if *only != "all" && *only != "" {
		wanted = strings.Split(*only, ",")
	}
	for _, s := range wanted {
		if !slices.Contains(scenarios, s) {
			return usage{fmt.Errorf("no scenario %q: use some of %s", s, strings.Join(scenarios, ", "))}
		}
	}
	if *out == "" {
		*out = filepath.Join(c.results, "profile")
	}
	// Nothing before a scenario is to be in its profile of memory.
	runtime.MemProfileRate = 0
	res := newResults()
	var all []*profiled
	p := &profiler{common: &c, size: int64(size), out: *out, wanted: wanted, done: &all}
	if slices.Contains(wanted, "pipe") {
		if err := p.inSite(ctx, p.pipe); err != nil {
			return err
		}
	}
	if len(wanted) > 1 || wanted[0] != "pipe" {
		if err := p.inSite(ctx, p.life); err != nil {
			return err
		}
	}
	res.Detail = all
	for _, x := range all {
		x.print(os.Stdout)
	}
	fmt.Printf("\nprofiles: %s, for go tool pprof; those of memory and waiting with -base X-before.prof\n", *out)
	return c.keep(res, "profile", os.Stdout)
}

// profiled is what was seen of a scenario.
type profiled struct {
	Scenario  string         `json:"scenario"`
	What      string         `json:"what"`
	Wall      time.Duration  `json:"wall"`
	CPU       time.Duration  `json:"cpu"`
	Allocated int64          `json:"allocated_bytes"`
	Collected uint32         `json:"collections"`
	Stages    []stages.Use   `json:"stages"`
	CPUBy     []stages.Count `json:"cpu_by"`
	Memory    []stages.Count `json:"memory_by"`
	Waiting   []stages.Count `json:"waiting_by"`
	Locks     []stages.Count `json:"locks_by"`
}

// profiler does scenarios in one process.
type profiler struct {
	*common
	size   int64
	out    string
	wanted []string
	done   *[]*profiled

	// of the site that is running
	rig   *rig.Rig
	site  *product.Site
	self  string
	state string
}

// inSite runs an appliance in this process while f works.
func (p *profiler) inSite(ctx context.Context, f func(context.Context) error) (err error) {
	if p.rig, err = rig.New(p.dir, p.log()); err != nil {
		return err
	}
	p.rig.Keep = p.keepDir
	defer func() { err = errors.Join(err, p.rig.Close()) }()
	if p.site, err = product.RunHere(ctx, p.rig, filepath.Join(p.rig.Dir, "site")); err != nil {
		return err
	}
	if p.self, err = os.Executable(); err != nil {
		return err
	}
	p.state = filepath.Join(p.rig.Dir, "agent")
	product.Forget(p.rig, p.state)
	return f(ctx)
}

// watch does something and keeps its profiles if the scenario is wanted.
func (p *profiler) watch(scenario, what string, f func() error) error {
	if !slices.Contains(p.wanted, scenario) {
		return f()
	}
	say("profile: %s", scenario)
	if rig.Root() {
		if err := rig.DropCaches(); err != nil {
			return err
		}
	}
	dir := filepath.Join(p.out, scenario)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	earlier, err := lookups()
	if err != nil {
		return err
	}
	runtime.MemProfileRate = memoryRate
	runtime.SetBlockProfileRate(int(10 * time.Microsecond))
	runtime.SetMutexProfileFraction(5)
	var cpu bytes.Buffer
	if err := pprof.StartCPUProfile(&cpu); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	began, used := time.Now(), rig.SelfCPU()
	err = f()
	x := &profiled{Scenario: scenario, What: what, Wall: time.Since(began), CPU: rig.SelfCPU() - used}
	pprof.StopCPUProfile()
	runtime.ReadMemStats(&after)
	x.Allocated, x.Collected = int64(after.TotalAlloc-before.TotalAlloc), after.NumGC-before.NumGC
	runtime.GC() // memory profiles are as of the last collection
	err = errors.Join(err, x.take(dir, cpu.Bytes(), earlier))
	runtime.MemProfileRate = 0
	runtime.SetBlockProfileRate(0)
	runtime.SetMutexProfileFraction(0)
	if err == nil {
		*p.done = append(*p.done, x)
	}
	return err
}

// cumulative are the profiles that the runtime never begins anew.
var cumulative = []string{"allocs", "block", "mutex"}

// lookups takes them all.
func lookups() (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, name := range cumulative {
		var b bytes.Buffer
		if err := pprof.Lookup(name).WriteTo(&b, 0); err != nil {
			return nil, fmt.Errorf("profile %s: %w", name, err)
		}
		all[name] = b.Bytes()
	}
	return all, nil
}

// take writes the profiles to a directory and reads who used most. What was seen before
// the scenario lies beside them, for go tool pprof -base.
func (x *profiled) take(dir string, cpu []byte, earlier map[string][]byte) (err error) {
	if x.Stages, err = stages.Of(cpu); err != nil {
		return err
	}
	now, err := lookups()
	if err != nil {
		return err
	}
	now["cpu"] = cpu
	for name, to := range map[string]*[]stages.Count{"cpu": &x.CPUBy, "allocs": &x.Memory, "block": &x.Waiting, "mutex": &x.Locks} {
		if err := os.WriteFile(filepath.Join(dir, name+".prof"), now[name], 0o644); err != nil {
			return err
		}
		if b := earlier[name]; b != nil {
			if err := os.WriteFile(filepath.Join(dir, name+"-before.prof"), b, 0o644); err != nil {
				return err
			}
		}
		if *to, err = stages.Since(now[name], earlier[name], 12); err != nil {
			return fmt.Errorf("profile %s: %w", name, err)
		}
	}
	return nil
}

// pipe copies what cannot be compressed.
func (p *profiler) pipe(ctx context.Context) error {
	image := filepath.Join(p.rig.Dir, "noise.img")
	if err := noise(image, p.size); err != nil {
		return err
	}
	dev, capture, err := device(ctx, p.rig, image)
	if err != nil {
		return err
	}
	return p.watch("pipe", fmt.Sprintf("%d MiB that cannot be compressed, agent to listed point", p.size>>20), func() error {
		return copyOnce(ctx, p.site, dev, capture, p.self, p.state)
	})
}

// life takes one disk through everything else.
func (p *profiler) life(ctx context.Context) error {
	c, err := corpus.Load(ctx, filepath.Join(p.rig.Dir, "corpus"), corpus.Options{Size: p.size, Seed: p.seed, Percents: []float64{5}})
	if err != nil {
		return err
	}
	live := filepath.Join(p.rig.Dir, "live.img")
	if _, err := rig.Run(ctx, "cp", "--sparse=always", c.Base, live); err != nil {
		return err
	}
	dev, capture, err := device(ctx, p.rig, live)
	if err != nil {
		return err
	}
	var stop func() error
	begin := func(capture string) func() error {
		return func() (err error) {
			after := time.Now()
			if stop, err = agentHere(ctx, p.site, dev, capture, p.self, p.state, agentInterval); err == nil {
				_, err = p.await(ctx, after)
			}
			return err
		}
	}
	if err := p.watch("initial", fmt.Sprintf("%d MiB of which %d are not zero, agent to listed point", p.size>>20, c.NonZero>>20), begin(capture)); err != nil {
		return err
	}
	err = p.watch("delta", fmt.Sprintf("%d blocks written, to listed point", c.Days[0].Changed), func() error {
		if err := apply(c.Days[0].Path, dev, c.Days[0].ChangedAt); err != nil {
			return err
		}
		_, err := p.await(ctx, time.Now())
		return err
	})
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	if err := apply(c.Base, dev, c.Days[0].ChangedAt); err != nil {
		return err
	}
	if err := p.watch("scan", "the same blocks changed while nobody looked, a new agent reads everything", begin("scan")); err != nil {
		return err
	}
	point, err := p.await(ctx, time.Now())
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	return p.back(ctx, point.ID, c.NonZero)
}

func (p *profiler) await(ctx context.Context, after time.Time) (api.Point, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("no point was listed in time"))
	defer cancel()
	return p.site.AwaitPoint(ctx, benchMachine, after, nil)
}

// back restores a point, and reads from it as who has nothing but the vault.
func (p *profiler) back(ctx context.Context, id string, nonZero int64) error {
	v, err := product.OpenVault(ctx, p.site.Dir)
	if err != nil {
		return err
	}
	err = p.watch("restore", fmt.Sprintf("%d MiB that are not zero to a raw file, synced", nonZero>>20), func() error {
		point, err := v.Point(ctx, id)
		if err != nil {
			return err
		}
		d := &point.Machines[0].Disks[0]
		r, err := failover.OpenDisk(ctx, v, vault.DiskID{Machine: benchMachine, Disk: d.Disk}, d)
		if err != nil {
			return err
		}
		defer r.Close()
		return disk.Write(ctx, r, filepath.Join(p.rig.Dir, "restored.img"), disk.Options{Format: disk.Raw})
	})
	if err != nil {
		return err
	}
	return p.watch("first-read", fmt.Sprintf("the vault opened and 4 KiB of a point read, %d times", firstReads), func() error {
		for range firstReads {
			if _, _, err := product.FirstBlock(ctx, p.site.Dir, id, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

func (x *profiled) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s\n%.2f s, %.2f s of processor time, %d MiB allocated, %d collections\n\n",
		strings.ToUpper(x.Scenario), x.What, x.Wall.Seconds(), x.CPU.Seconds(), x.Allocated>>20, x.Collected)
	rows := [][]string{{"stage", "CPU s", "share"}}
	for _, s := range x.Stages {
		if share := float64(s.CPU) / float64(max(1, x.CPU)); share >= 0.01 {
			rows = append(rows, []string{s.Stage, fmt.Sprintf("%.2f", s.CPU.Seconds()), fmt.Sprintf("%.0f %%", 100*share)})
		}
	}
	report.Table(w, rows)
	seconds := func(v int64) string { return fmt.Sprintf("%.2f s", time.Duration(v).Seconds()) }
	for _, k := range []struct {
		title string
		by    []stages.Count
		show  func(int64) string
	}{
		{"processor time", x.CPUBy, seconds}, {"memory allocated", x.Memory, func(v int64) string { return fmt.Sprintf("%.1f MiB", float64(v)/(1<<20)) }},
		{"waiting", x.Waiting, seconds}, {"for locks", x.Locks, seconds},
	} {
		rows := [][]string{{k.title, ""}}
		for _, c := range k.by[:min(8, len(k.by))] {
			rows = append(rows, []string{c.Function, k.show(c.Value)})
		}
		fmt.Fprintln(w)
		report.Table(w, rows)
	}
}
