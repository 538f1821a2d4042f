package appliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/consumers/process"
	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/control/console"
	"github.com/leeward-dr/leeward/control/console/web"
	"github.com/leeward-dr/leeward/control/enrol"
	"github.com/leeward-dr/leeward/control/push/crew"
	"github.com/leeward-dr/leeward/embed"
	"github.com/leeward-dr/leeward/streams/trust"
)

// auditor hands what the server refuses to control, which starts later and stops
// earlier than the server.
type auditor struct {
	log *slog.Logger

	mu    sync.Mutex
	to    *control.Service
	early []embed.Refusal // before there was a control, at most maxEarly
}

const maxEarly = 64

func (a *auditor) tell(r embed.Refusal) {
	a.log.Warn("refused", "user", r.PublicKey, "what", r.What, "times", r.Times)
	a.mu.Lock()
	to := a.to
	if to == nil && len(a.early) < maxEarly {
		a.early = append(a.early, r)
	}
	a.mu.Unlock()
	if to != nil {
		to.Refused(r.PublicKey, r.What, r.Times)
	}
}

// attach starts to hand on; the function it returns ends that.
func (a *auditor) attach(to *control.Service) (detach func()) {
	a.mu.Lock()
	a.to = to
	early := a.early
	a.early = nil
	a.mu.Unlock()
	for _, r := range early {
		to.Refused(r.PublicKey, r.What, r.Times)
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.to = nil
	}
}

// letIn makes control one that lets agents in, with the server's keys.
func letIn(ctx context.Context, s *embed.Server, c *control.Service) error {
	authority, err := s.Authority(ctx)
	if err != nil {
		return fmt.Errorf("connect as the authority: %w", err)
	}
	o := enrol.Options{Issuer: authority, URL: s.ClientURL()}
	if o.Pin, err = s.CAPin(); err != nil {
		return err
	}
	if file := s.CAFile(); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the CA file: %w", err)
		}
		o.CA = string(b)
	}
	return c.LetIn(ctx, o)
}

// newConsole wires the management port; nil if there is none.
func newConsole(lc fx.Lifecycle, c Config, s *embed.Server, cs *control.Service, ps *process.Server, a *auditor, log *slog.Logger) (*console.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	if err := letIn(ctx, s, cs); err != nil {
		return nil, err
	}
	detach := a.attach(cs)
	lc.Append(fx.StopHook(detach))
	if c.Manage == "" {
		return nil, nil
	}
	token, err := MetricsToken(c.Dir)
	if err != nil {
		return nil, err
	}
	pages, err := web.New(web.Config{Connect: s.Connect, Version: cs.Version(), Log: log, Crew: crew.New(crew.Config{Log: log})})
	if err != nil {
		return nil, err
	}
	lc.Append(fx.StopHook(pages.Close))
	m, err := console.Start(console.Config{
		Listen: c.Manage, TLS: s.TLS(), Token: token, Enrol: cs.Enrolment, Log: log, Pages: pages,
		Ready: func(ctx context.Context) error { return errors.Join(s.Ready(), cs.ReadyNow(ctx)) },
		Metrics: []func(context.Context) ([]console.Family, error){
			console.Runtime, cs.Metrics, func(context.Context) ([]console.Family, error) { return ProcessMetrics(ps.Stats()), nil },
		},
	})
	if err != nil {
		return nil, err
	}
	lc.Append(fx.StopHook(m.Stop))
	cs.ConsoleAt(m.Reached(c.Advertise))
	return m, nil
}

// MetricsToken is what readers of metrics on other machines bring. It is made at
// the first start.
func MetricsToken(dir string) (string, error) {
	file := filepath.Join(dir, "keys", "metrics.token")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		b = []byte(rand.Text() + "\n")
		err = trust.WriteWhole(file, b, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("token for metrics: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// ProcessMetrics describes a process server.
func ProcessMetrics(st process.Stats) []console.Family {
	store := 1.0
	if st.Store != "" {
		store = 0
	}
	of := console.Of
	out := []console.Family{
		of("leeward_process_in_bytes_total", "Bytes of messages taken from CHANGES", console.Counter, float64(st.BytesIn)),
		of("leeward_process_out_bytes_total", "Bytes of frames given to the vault", console.Counter, float64(st.BytesStored)),
		of("leeward_process_links_total", "Links committed to the vault", console.Counter, float64(st.Links)),
		of("leeward_process_commits_total", "Commits to the vault", console.Counter, float64(st.Commits)),
		of("leeward_process_redelivered_total", "Messages that JetStream delivered more than once", console.Counter, float64(st.Delivered)),
		of("leeward_process_refused_total", "Links that were fenced, forked or behind a gap", console.Counter, float64(st.Refused)),
		of("leeward_process_malformed_total", "Messages that could not be read", console.Counter, float64(st.Malformed)),
		of("leeward_process_memory_bytes", "Bytes of links that wait", console.Gauge, float64(st.MemoryBytes)),
		of("leeward_process_behind", "Messages that JetStream has not delivered yet", console.Gauge, float64(st.Behind)),
		of("leeward_vault_up", "1 while the vault's store takes writes", console.Gauge, store),
	}
	lag := console.Family{Name: "leeward_process_lag_seconds", Help: "How long the oldest waiting link of a disk is in JetStream", Kind: console.Gauge}
	wait := console.Family{Name: "leeward_process_pending_bytes", Help: "Bytes of a disk that wait for the vault", Kind: console.Gauge}
	for id, d := range st.Disks {
		machine, disk, _ := strings.Cut(id, "/")
		where := []string{"machine", machine, "disk", disk}
		lag.Samples = append(lag.Samples, console.Sample{Labels: where, Value: d.Lag.Seconds()})
		wait.Samples = append(wait.Samples, console.Sample{Labels: where, Value: float64(d.PendingBytes)})
	}
	commit := console.Family{Name: "leeward_process_commit_seconds", Help: "How long a commit to the vault took", Kind: console.Histogram, Samples: console.OfCounts(st.CommitTimes)}
	all := console.Family{Name: "leeward_process_link_seconds", Help: "From JetStream's taking a link until the vault had it", Kind: console.Histogram, Samples: console.OfCounts(st.LagTimes)}
	return append(out, lag, wait, commit, all)
}
