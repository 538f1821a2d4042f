package fanin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Options of a run.
type Options struct {
	Disks   []int // how many, ascending; each step adds to the one before
	Machine int   // disks a machine
	Pace    int   // disks a second in the round in which latency is measured
	// Profile, if it is set, runs the appliance in this process and takes a profile of
	// the last step's round. What the crowd does is in it, too.
	Profile func() (stop func() error, err error)
	Cluster bool // three nodes, two process servers and a control instead of an appliance
	Limit   time.Duration
	Nodes   string // folder with node.conf
	Bin     product.Binaries
	Dir     string
	Keep    bool
	Log     *slog.Logger
	Say     func(format string, args ...any)
}

// pacedSeconds is how long the round lasts in which latency is measured.
const pacedSeconds = 5

// Row is one step.
type Row struct {
	Disks   int           `json:"disks"`
	First   time.Duration `json:"first"` // until the disks of this step had their first point
	Round   time.Duration `json:"round"` // a change of every disk, as fast as it goes, until all points were listed
	Links   float64       `json:"links_per_second"`
	CPU     time.Duration `json:"cpu"` // of all servers, in Round
	RSS     int64         `json:"rss"` // of all servers, afterwards
	P50     time.Duration `json:"p50"` // from a marker until its point was listed, at Pace
	P99     time.Duration `json:"p99"`
	Backlog uint64        `json:"backlog_messages"` // left in CHANGES when all points were listed
}

// Result is a run.
type Result struct {
	Servers string `json:"servers"`
	Rows    []Row  `json:"rows"`
	// What a disk more costs, from a straight line through the rows, and how much of the
	// rows' scatter the line explains.
	SecondsPerDisk, SecondsFit float64
	CPUPerDisk, CPUFit         float64
	BytesPerDisk, BytesFit     float64
}

// site is what is measured.
type site struct {
	name    string
	servers []*rig.Process
	agent   string // context
	conn    *product.Site
	profile func() (stop func() error, err error) // of the next step's round
}

// Run measures.
func Run(ctx context.Context, o Options) (res *Result, err error) {
	r, err := rig.New(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	r.Keep = o.Keep
	defer func() { err = errors.Join(err, r.Close()) }()
	ctx, cancel := context.WithTimeoutCause(ctx, o.Limit, fmt.Errorf("not done within %v", o.Limit))
	defer cancel()
	s, err := appliance(ctx, r, o)
	if o.Cluster {
		s, err = cluster(ctx, r, o)
	}
	if err != nil {
		return nil, err
	}
	res = &Result{Servers: s.name}
	c, err := newCrowd(ctx, s.agent, s.conn.Bus)
	if err != nil {
		return nil, err
	}
	defer c.close()
	for i, n := range o.Disks {
		if i < len(o.Disks)-1 {
			s.profile = nil
		} else {
			s.profile = o.Profile
		}
		row, err := s.step(ctx, c, o, n)
		if err != nil {
			return nil, fmt.Errorf("%s, %d disks: %w", s.name, n, errors.Join(err, s.alive()))
		}
		res.Rows = append(res.Rows, row)
		o.Say("%s: %d disks: round %.1f s, p99 %.2f s, %d MiB", s.name, n, row.Round.Seconds(), row.P99.Seconds(), row.RSS>>20)
	}
	res.fit()
	return res, nil
}

func (s *site) step(ctx context.Context, c *crowd, o Options, n int) (row Row, err error) {
	row.Disks = n
	began := time.Now()
	if _, err := c.round(ctx, c.grow(n/o.Machine, o.Machine), 0); err != nil {
		return row, fmt.Errorf("first points: %w", err)
	}
	row.First = time.Since(began)
	stop := func() error { return nil }
	if s.profile != nil {
		if stop, err = s.profile(); err != nil {
			return row, err
		}
	}
	cpu := s.cpu()
	began = time.Now()
	if _, err := c.round(ctx, c.machines, 0); err != nil {
		return row, fmt.Errorf("round: %w", err)
	}
	if err := stop(); err != nil {
		return row, err
	}
	row.Round, row.CPU = time.Since(began), s.cpu()-cpu
	row.Links = 2 * float64(n) / row.Round.Seconds()
	// A few seconds are enough for that, however many there are beside.
	some := c.machines[:min(len(c.machines), pacedSeconds*o.Pace/o.Machine+1)]
	took, err := c.round(ctx, some, time.Duration(len(some)*o.Machine)*time.Second/time.Duration(o.Pace))
	if err != nil {
		return row, fmt.Errorf("paced round: %w", err)
	}
	t := report.Seconds(took)
	row.P50 = time.Duration(report.Quantile(t, 0.5) * float64(time.Second))
	row.P99 = time.Duration(report.Quantile(t, 0.99) * float64(time.Second))
	row.RSS = s.rss()
	st, err := s.conn.API.Status(ctx)
	if err == nil {
		row.Backlog = st.BacklogMessages
	}
	return row, err
}

func (s *site) cpu() (d time.Duration) {
	if len(s.servers) == 0 {
		return rig.SelfCPU()
	}
	for _, p := range s.servers {
		d += p.CPU()
	}
	return d
}

func (s *site) rss() (n int64) {
	if len(s.servers) == 0 {
		return resident(os.Getpid())
	}
	for _, p := range s.servers {
		n += resident(p.PID())
	}
	return n
}

// resident is what a process has in memory now.
func resident(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size, pages int64
	if err == nil {
		_, err = fmt.Sscan(string(b), &size, &pages)
	}
	if err != nil {
		return 0 // it has ended, which alive says
	}
	return pages * int64(os.Getpagesize())
}

func (s *site) alive() error {
	var all []error
	for _, p := range s.servers {
		all = append(all, p.Alive())
	}
	return errors.Join(all...)
}

// appliance starts one.
func appliance(ctx context.Context, r *rig.Rig, o Options) (*site, error) {
	if o.Cluster {
		return nil, nil
	}
	at, err := product.FreeAddress()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.Dir, "site")
	if o.Profile != nil {
		conn, err := product.RunHere(ctx, r, dir)
		if err != nil {
			return nil, err
		}
		return &site{name: "appliance, in one process with the disks", agent: product.Context(dir, "agent"), conn: conn}, nil
	}
	p, err := r.Start(o.Bin.Up(dir, at))
	if err != nil {
		return nil, err
	}
	conn, err := product.Connect(ctx, dir, p.Alive)
	if err != nil {
		return nil, err
	}
	r.Defer("disconnect", func() error { conn.Close(); return nil })
	return &site{name: "appliance", servers: []*rig.Process{p}, agent: product.Context(dir, "agent"), conn: conn}, nil
}

// cluster starts three nodes as deploy/nats says, two process servers and a control,
// all on this machine's loopback.
func cluster(ctx context.Context, r *rig.Rig, o Options) (*site, error) {
	conf := filepath.Join(r.Dir, "conf")
	if err := os.MkdirAll(filepath.Join(conf, "keys"), 0o700); err != nil {
		return nil, err
	}
	var listen, routes, urls []string
	for range 3 {
		for _, to := range []*[]string{&listen, &routes} {
			at, err := product.FreeAddress()
			if err != nil {
				return nil, err
			}
			*to = append(*to, at)
		}
		urls = append(urls, "tls://"+listen[len(listen)-1])
	}
	if err := product.Certificates(conf, []string{"127.0.0.1"}); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(o.Nodes, "node.conf"))
	if err == nil {
		err = os.WriteFile(filepath.Join(conf, "node.conf"), b, 0o600)
	}
	if err != nil {
		return nil, err
	}
	if _, err := rig.Run(ctx, o.Bin.Leeward, "nats", "init", "--dir", conf, "--urls", strings.Join(urls, ","), "--ca", filepath.Join(conf, "ca.pem")); err != nil {
		return nil, err
	}
	s := &site{name: "cluster", agent: product.Context(conf, "agent")}
	run := func(c rig.Command) error {
		p, err := r.Start(c)
		if err == nil {
			s.servers = append(s.servers, p)
		}
		return err
	}
	for i := range 3 {
		name := fmt.Sprint("n", i+1)
		env := []string{"LEEWARD_NODE=" + name, "LEEWARD_LISTEN=" + listen[i], "LEEWARD_CLUSTER=" + routes[i], "LEEWARD_STORE=" + filepath.Join(r.Dir, "store-"+name)}
		for k, at := range routes {
			env = append(env, fmt.Sprintf("LEEWARD_ROUTE_%d=tls://%s", k+1, at))
		}
		if err := run(rig.Command{Name: name, Argv: []string{o.Bin.Leeward, "nats", "run", "--config", "node.conf", "--log-level", "warn"}, Env: env, Dir: conf}); err != nil {
			return nil, err
		}
	}
	store := "dir://" + product.Vault(conf)
	if _, err := rig.Run(ctx, o.Bin.Leeward, "vault", "init", "--vault", store, "--key-file", product.Key(conf)); err != nil {
		return nil, err
	}
	for _, name := range []string{"c1", "p1", "p2"} {
		role := map[byte]string{'p': "process", 'c': "control"}[name[0]]
		argv := []string{o.Bin.Leeward, role, "--context", product.Context(conf, role), "--vault", store, "--key-file", product.Key(conf), "--dir", filepath.Join(r.Dir, "dir-"+name)}
		if err := run(rig.Command{Name: name, Argv: argv}); err != nil {
			return nil, err
		}
	}
	s.conn = &product.Site{Dir: conf}
	r.Defer("disconnect", func() error { s.conn.Close(); return nil })
	return s, s.connect(ctx)
}

// connect waits until control answers.
func (s *site) connect(ctx context.Context) error {
	return rig.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		if err := s.alive(); err != nil {
			return false, err
		}
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if s.conn.Bus == nil {
			b, err := bus.Connect(short, bus.Options{Name: "leeward-bench", Context: product.Context(s.conn.Dir, "admin")})
			if err != nil {
				return false, nil // the nodes are only just coming up
			}
			s.conn.Bus, s.conn.API = b, api.NewClient(b.Conn)
		}
		st, err := s.conn.API.Status(short)
		return err == nil && st.Ready, nil
	})
}
