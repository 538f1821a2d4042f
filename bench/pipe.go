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
	"time"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/bench/limits"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/bench/stages"
	"github.com/leeward-dr/leeward/streams/bus"
)

// pipeResult is what bench pipe found.
type pipeResult struct {
	Pairs  []pipePair   `json:"pairs"`
	Stages []stages.Use `json:"stages"` // of one GiB
	Size   int64        `json:"size"`
}

// pipePair is a copy of an incompressible disk and, right after it, the same bytes in
// messages of the same size through JetStream alone.
type pipePair struct {
	Message   int           `json:"message"`
	Ours      time.Duration `json:"ours"`
	Plain     time.Duration `json:"plain"`
	AgentCPU  time.Duration `json:"agent_cpu"`
	ServerCPU time.Duration `json:"server_cpu"`
	PlainCPU  time.Duration `json:"plain_cpu"`
	RSS       int64         `json:"rss"` // of the appliance at most
}

func (p pipePair) ratio() float64 { return p.Plain.Seconds() / p.Ours.Seconds() }

// runPipe compares the whole way of incompressible blocks with JetStream alone, and says
// which stage uses how much processor time.
func runPipe(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("bench pipe", flag.ContinueOnError)
	var c common
	c.add(f)
	// Long enough that the start of an agent and the last sync are a small part, and that
	// what is not consumed in time shows in memory.
	size := bytesFlag(1 << 30)
	f.Var(&size, "size", "`size` of the incompressible disk")
	other := f.String("image", "", "copy this `file` instead of noise, and only tell the stages")
	pairs := f.Int("pairs", 5, "alternating pairs of the product and JetStream alone (0: only the stages)")
	keepProfile := f.String("profile", "", "keep the CPU profile in this `file`")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	bin, err := product.Find(*up, *agentBin)
	if err != nil {
		return usage{err}
	}
	r, err := rig.New(c.dir, c.log())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	image := filepath.Join(r.Dir, "noise.img")
	if *other != "" {
		info, err := os.Stat(*other)
		if err != nil {
			return usage{err}
		}
		image, size, *pairs = *other, bytesFlag(info.Size()), 0
	} else if err := noise(image, int64(size)); err != nil {
		return err
	}
	res, x := newResults(), &pipeResult{Size: int64(size)}
	res.Detail = x
	for i := range *pairs {
		p, err := onePair(ctx, &c, r.Dir, bin, image, int64(size))
		if err != nil {
			return err
		}
		say("pair %d of %d: %.2f", i+1, *pairs, p.ratio())
		x.Pairs = append(x.Pairs, *p)
	}
	profile, err := pipeProfile(ctx, r.Dir, image)
	if err != nil {
		return err
	}
	if *keepProfile != "" {
		if err := os.WriteFile(*keepProfile, profile, 0o600); err != nil {
			return err
		}
	}
	if x.Stages, err = stages.Of(profile); err != nil {
		return err
	}
	for i := range x.Stages {
		x.Stages[i].CPU = time.Duration(float64(x.Stages[i].CPU) * float64(1<<30) / float64(size))
	}
	x.print(os.Stdout)
	return c.keep(res, "pipe", os.Stdout)
}

// onePair copies the image with the real programs, and then sends as much through
// JetStream alone.
func onePair(ctx context.Context, c *common, dir string, bin product.Binaries, image string, size int64) (p *pipePair, err error) {
	r, err := rig.New(dir, c.log())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	o, err := newOurs(ctx, r, bin, r.Dir)
	if err != nil {
		return nil, err
	}
	t, err := o.tap()
	if err != nil {
		return nil, err
	}
	capture, err := o.follow(ctx, image)
	if err != nil {
		return nil, err
	}
	server := o.server.CPU()
	u, _, _, err := o.initial(ctx, capture)
	if err != nil {
		return nil, err
	}
	p = &pipePair{Ours: u.Wall, RSS: u.RSS, ServerCPU: o.server.CPU() - server, AgentCPU: o.agent.CPU()}
	if p.Message, err = t.mean(); err != nil {
		return nil, err
	}
	if err := o.stop(); err != nil {
		return nil, err
	}
	if err := rig.Syncfs(dir); err != nil {
		return nil, err
	}
	before := rig.SelfCPU()
	l := limits.Stream(ctx, r.Dir, p.Message, size)
	if l.Why != "" {
		return nil, errors.New(l.Why)
	}
	p.PlainCPU = rig.SelfCPU() - before
	p.Plain = time.Duration(float64(size) / l.Rate * float64(time.Second))
	return p, nil
}

// pipeProfile copies the image with agent and appliance in this process and returns a
// CPU profile of the whole way.
func pipeProfile(ctx context.Context, dir, image string) (profile []byte, err error) {
	r, err := rig.New(dir, product.Silent())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	site, err := product.RunHere(ctx, r, filepath.Join(r.Dir, "site"))
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	disk, capture, err := device(ctx, r, image)
	if err != nil {
		return nil, err
	}
	state := filepath.Join(r.Dir, "agent")
	product.Forget(r, state)
	runtime.GC()
	var b bytes.Buffer
	if err := pprof.StartCPUProfile(&b); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	err = copyOnce(ctx, site, disk, capture, self, state)
	pprof.StopCPUProfile()
	return b.Bytes(), err
}

// copyOnce runs an agent until its first point is listed.
func copyOnce(ctx context.Context, site *product.Site, disk, capture, self, state string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stop, err := agentHere(ctx, site, disk, capture, self, state, agent.Default().Interval)
	if err != nil {
		return err
	}
	_, err = site.AwaitPoint(ctx, benchMachine, time.Unix(0, 0), nil)
	return errors.Join(err, stop())
}

// agentHere runs an agent in this process until stop is called.
func agentHere(ctx context.Context, site *product.Site, disk, capture, self, state string, interval time.Duration) (stop func() error, err error) {
	return runAgent(ctx, site, agentConfig(disk, capture, self, state, interval))
}

func agentConfig(disk, capture, self, state string, interval time.Duration) agent.Config {
	cfg := agent.Default()
	cfg.Machine, cfg.Disks, cfg.Interval = benchMachine, []agent.DiskConfig{{Path: disk, Name: benchDisk}}, interval
	cfg.Capture, cfg.StateDir, cfg.GuardCommand = capture, state, []string{self, "guard"}
	return cfg
}

// runAgent runs an agent in this process until stop is called.
func runAgent(ctx context.Context, site *product.Site, cfg agent.Config) (stop func() error, err error) {
	bs, err := bus.Connect(ctx, bus.Options{Name: "bench agent", Context: product.Context(site.Dir, "agent")})
	if err != nil {
		return nil, err
	}
	a, err := agent.New(ctx, cfg, bs, product.Silent())
	if err != nil {
		bs.Close()
		return nil, err
	}
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(run) }()
	return func() error {
		cancel()
		err := <-ended
		a.Close()
		bs.Close()
		return err
	}, nil
}

func (x *pipeResult) print(w io.Writer) {
	perGiB := float64(1<<30) / float64(x.Size)
	take := func(get func(pipePair) float64) float64 {
		var all []float64
		for _, p := range x.Pairs {
			all = append(all, get(p))
		}
		return report.Median(all)
	}
	if len(x.Pairs) > 0 {
		rate := func(d time.Duration) float64 { return float64(x.Size) / d.Seconds() / 1e6 }
		report.Table(w, [][]string{
			{"", "MB/s", "CPU s per GiB"},
			{"Leeward, agent to vault", fmt.Sprintf("%.0f", take(func(p pipePair) float64 { return rate(p.Ours) })),
				fmt.Sprintf("%.1f (agent %.1f, appliance %.1f)", take(func(p pipePair) float64 { return (p.AgentCPU + p.ServerCPU).Seconds() * perGiB }),
					take(func(p pipePair) float64 { return p.AgentCPU.Seconds() * perGiB }), take(func(p pipePair) float64 { return p.ServerCPU.Seconds() * perGiB }))},
			{"JetStream alone", fmt.Sprintf("%.0f", take(func(p pipePair) float64 { return rate(p.Plain) })),
				fmt.Sprintf("%.1f", take(func(p pipePair) float64 { return p.PlainCPU.Seconds() * perGiB }))},
			{"ratio, median of the pairs", fmt.Sprintf("%.2f", take(pipePair.ratio)), "goal 0.7"},
		})
		fmt.Fprintf(w, "\n%d pairs of %d MiB, messages of %d bytes, appliance at most %.0f MiB\n\n", len(x.Pairs), x.Size>>20, x.Pairs[0].Message,
			take(func(p pipePair) float64 { return float64(p.RSS) })/(1<<20))
	}
	rows, all := [][]string{{"stage", "CPU s per GiB"}}, time.Duration(0)
	for _, s := range x.Stages {
		rows = append(rows, []string{s.Stage, fmt.Sprintf("%.2f", s.CPU.Seconds())})
		all += s.CPU
	}
	report.Table(w, append(rows, []string{"all", fmt.Sprintf("%.2f", all.Seconds())}))
}
