package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/load"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Options of a run.
type Options struct {
	Rounds   int
	Agents   int
	Size     int64         // bytes of each disk
	Interval time.Duration // between points
	Cut      time.Duration // how long a cable is out
	Recovery time.Duration // every machine must have a new point so long after a fault ended
	Every    int           // of the listed points every so many are restored
	Rolling  int           // every so many rounds all parts are restarted one after the other; 0: never
	Power    bool          // the only fault is a power failure: of one NATS node, of the one that leads, of all at once
	Each     bool          // one fault of each kind (see Kinds), one after the other
	Only     string        // the only fault is one whose text begins so, e.g. "kill n"; empty: any
	Seed     uint64
	Nodes    string // folder with node.conf
	Bin      product.Binaries
	Dir      string
	Keep     bool
	Log      *slog.Logger                     `json:"-"`
	Say      func(format string, args ...any) `json:"-"`
}

// Round is one fault.
type Round struct {
	What     string        `json:"what"`
	Recovery time.Duration `json:"recovery"` // from the fault's end until the last machine had a point
	Slowest  string        `json:"slowest"`  // machine
}

// Result is what was found.
type Result struct {
	Skipped  string   `json:"skipped,omitempty"`
	Seed     uint64   `json:"seed"`
	Rounds   []Round  `json:"rounds"`
	Listed   int      `json:"listed"`
	Checked  int      `json:"checked"`
	Records  int      `json:"records"`
	Resyncs  []string `json:"resyncs"` // events that tell of one
	Ends     []string `json:"ends"`    // of programs when nobody had asked for it
	Bad      []string `json:"bad"`
	Seconds  float64  `json:"seconds"`
	Problems []string `json:"problems,omitempty"`
}

// OK says whether all rounds were made and no promise was broken.
func (r *Result) OK(rounds int) bool {
	return r.Skipped == "" && len(r.Rounds) == rounds && len(r.Bad) == 0 && r.Checked > 0
}

const diskID = "disk"

// part is a program on a host.
type part struct {
	*host
	*rig.Keeper
}

// machine is a protected one.
type machine struct {
	part
	dev, dir string
	unmount  func() error
	ledger   *load.Ledger
}

type trial struct {
	o        Options
	rig      *rig.Rig
	net      *network
	rnd      *rand.Rand
	res      *Result
	conf     string  // directory of configuration, keys and contexts
	parts    []*part // nodes, process servers, controls
	machines []*machine
	stores   map[string]*store // of the nodes, if their power may fail
	site     *product.Site
	seen     map[string]bool
	around   map[string]bool
}

// Run breaks things, and looks.
func Run(ctx context.Context, o Options) (res *Result, err error) {
	for _, why := range []string{rig.Missing("ext4"), missing()} {
		if why != "" {
			return &Result{Skipped: why}, nil
		}
	}
	began := time.Now()
	r, err := rig.New(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := r.Close(); e != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", e))
		}
	}()
	r.Keep = o.Keep
	o.Say("working in %s", r.Dir)
	t := &trial{
		o: o, rig: r, rnd: rand.New(rand.NewPCG(o.Seed, 17)), stores: map[string]*store{}, seen: map[string]bool{}, around: map[string]bool{},
		res: &Result{Seed: o.Seed, Rounds: []Round{}, Resyncs: []string{}, Ends: []string{}, Bad: []string{}},
	}
	for _, do := range []func(context.Context) error{t.cluster, t.servers, t.protect, t.havoc, t.look} {
		if err := do(ctx); err != nil {
			t.words()
			return nil, err
		}
	}
	t.res.Seconds = time.Since(began).Seconds()
	return t.res, nil
}

// run starts a program on a new host and keeps it running.
func (t *trial) run(h *host, cmd rig.Command) (*part, error) {
	cmd.Name, cmd.Argv = h.name, h.on(cmd.Argv...)
	k, err := rig.Keep(t.rig, cmd)
	if err != nil {
		return nil, err
	}
	return &part{h, k}, nil
}

// cluster starts the NATS nodes as deploy/nats says.
func (t *trial) cluster(ctx context.Context) (err error) {
	if t.net, err = newNetwork(ctx, t.rig); err != nil {
		return err
	}
	t.conf = filepath.Join(t.rig.Dir, "conf")
	if err := os.MkdirAll(filepath.Join(t.conf, "keys"), 0o700); err != nil {
		return err
	}
	var hosts []*host
	var urls, addrs []string
	for i := range 3 {
		h, err := t.net.host(ctx, fmt.Sprint("n", i+1))
		if err != nil {
			return err
		}
		hosts, urls, addrs = append(hosts, h), append(urls, "tls://"+h.addr+":4222"), append(addrs, h.addr)
	}
	if err := product.Certificates(t.conf, addrs); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(t.o.Nodes, "node.conf"))
	if err == nil {
		err = os.WriteFile(filepath.Join(t.conf, "node.conf"), b, 0o600)
	}
	if err != nil {
		return err
	}
	if _, err := rig.Run(ctx, t.o.Bin.Leeward, "nats", "init", "--dir", t.conf, "--urls", strings.Join(urls, ","), "--ca", filepath.Join(t.conf, "ca.pem")); err != nil {
		return err
	}
	for _, h := range hosts {
		dir, err := t.store(ctx, h.name)
		if err != nil {
			return err
		}
		env := []string{
			"LEEWARD_NODE=" + h.name, "LEEWARD_LISTEN=" + h.addr + ":4222", "LEEWARD_CLUSTER=" + h.addr + ":6222",
			"LEEWARD_STORE=" + dir,
		}
		for i, a := range addrs {
			env = append(env, fmt.Sprintf("LEEWARD_ROUTE_%d=tls://%s:6222", i+1, a))
		}
		p, err := t.run(h, rig.Command{Argv: []string{t.o.Bin.Leeward, "nats", "run", "--config", "node.conf", "--log-level", "warn"}, Env: env, Dir: t.conf})
		if err != nil {
			return err
		}
		t.parts = append(t.parts, p)
	}
	return nil
}

// servers makes the vault and starts process servers and controls.
func (t *trial) servers(ctx context.Context) error {
	store := "dir://" + product.Vault(t.conf)
	if _, err := rig.Run(ctx, t.o.Bin.Leeward, "vault", "init", "--vault", store, "--key-file", product.Key(t.conf)); err != nil {
		return err
	}
	for _, name := range []string{"p1", "p2", "p3", "c1", "c2"} {
		h, err := t.net.host(ctx, name)
		if err != nil {
			return err
		}
		role := map[byte]string{'p': "process", 'c': "control"}[name[0]]
		argv := []string{t.o.Bin.Leeward, role, "--context", product.Context(t.conf, role), "--vault", store, "--key-file", product.Key(t.conf)}
		if role == "control" {
			argv = append(argv, "--dir", filepath.Join(t.rig.Dir, "jobs-"+name), "--changes-bytes", fmt.Sprint(1<<30))
		}
		p, err := t.run(h, rig.Command{Argv: argv})
		if err != nil {
			return err
		}
		t.parts = append(t.parts, p)
	}
	return t.connect(ctx)
}

// connect waits until control answers.
func (t *trial) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("control does not answer"))
	defer cancel()
	t.site = &product.Site{Dir: t.conf}
	t.rig.Defer("disconnect", func() error { t.site.Close(); return nil })
	var last error
	err := rig.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if t.site.Bus == nil {
			var b *bus.Bus
			if b, last = bus.Connect(short, bus.Options{Name: "leeward-bench", Context: product.Context(t.conf, "admin")}); last != nil {
				return false, nil
			}
			t.site.Bus, t.site.API = b, api.NewClient(b.Conn)
		}
		st, err := t.site.API.Status(short)
		last = err
		return err == nil && st.Ready, nil
	})
	if err != nil {
		return fmt.Errorf("%w (%v)", err, last)
	}
	return nil
}

// protect makes the machines and waits for a first point of each.
func (t *trial) protect(ctx context.Context) error {
	for i := range t.o.Agents {
		m := &machine{}
		h, err := t.net.host(ctx, fmt.Sprint("web", i+1))
		if err != nil {
			return err
		}
		file, err := t.rig.File(h.name+".img", t.o.Size)
		if err != nil {
			return err
		}
		if m.dev, err = t.rig.Loop(ctx, file); err != nil {
			return err
		}
		if err := rig.Mkfs(ctx, "ext4", m.dev); err != nil {
			return err
		}
		if m.dir, m.unmount, err = t.rig.Mount(ctx, h.name, "ext4", m.dev, ""); err != nil {
			return err
		}
		p, err := t.run(h, t.o.Bin.Protect(product.Protection{
			Site: t.conf, Machine: h.name, Disk: m.dev, Name: diskID, Capture: "trace", Interval: t.o.Interval,
			FreezeLimit: 5 * time.Second, FreezeBytes: 64 << 20, StateDir: filepath.Join(t.rig.Dir, "agent-"+h.name),
		}))
		if err != nil {
			return err
		}
		m.part = *p
		m.ledger = &load.Ledger{Dir: m.dir, Seed: t.o.Seed + uint64(i), Pause: 20 * time.Millisecond}
		t.machines = append(t.machines, m)
	}
	_, _, err := t.await(ctx, time.Time{}, 3*time.Minute)
	return err
}

// await waits until every machine has a point whose cut is after a time.
func (t *trial) await(ctx context.Context, after time.Time, patience time.Duration) (last map[string]api.Point, slowest string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no new point within %v", patience))
	defer cancel()
	last = map[string]api.Point{}
	for _, m := range t.machines {
		began := time.Now()
		p, err := t.site.AwaitPoint(ctx, m.name, after, nil)
		if err != nil {
			return nil, m.name, fmt.Errorf("%s: %w", m.name, err)
		}
		if time.Since(began) > 50*time.Millisecond {
			slowest = m.name
		}
		last[m.name] = p
		t.around[p.ID] = true
	}
	return last, slowest, nil
}

func (t *trial) bad(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	t.res.Bad = append(t.res.Bad, s)
	t.o.Say("BAD: %s", s)
}

// words says how every part ended, for whoever must find out why.
func (t *trial) words() {
	for _, p := range t.all() {
		t.o.Say("%s: %s", p.name, p.Words())
	}
}

// all are all parts, those on the machines last.
func (t *trial) all() []*part {
	all := append([]*part(nil), t.parts...)
	for _, m := range t.machines {
		all = append(all, &m.part)
	}
	return all
}
