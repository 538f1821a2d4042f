package crew

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/control/push"
)

// What a round does.
const (
	Install   = "install"
	Upgrade   = "upgrade"
	Uninstall = "uninstall"
)

// The bounds of a round, and of how many there are.
const (
	MaxHosts  = 64
	maxRounds = 20 // that are remembered
	maxBusy   = 4  // that run at once
	parallel  = 8  // hosts at once
	roundTime = 30 * time.Minute
	hostTime  = 10 * time.Minute
	dialTime  = 20 * time.Second
	lookTime  = 10 * time.Second
	firstBeat = 2 * time.Minute
	maxSteps  = 40 // of a host
)

// Config of a crew.
type Config struct {
	// Agent finds the agent for a processor; nil: FindAgent.
	Agent func(arch string) (string, error)
	Log   *slog.Logger
}

// Crew goes to hosts. It is safe for use by several goroutines.
type Crew struct {
	c   Config
	ctx context.Context
	end context.CancelFunc
	wg  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	closed bool
	busy   int
	rounds []*Round // the oldest first
}

// New makes a crew. Close ends it.
func New(c Config) *Crew {
	if c.Agent == nil {
		c.Agent = func(arch string) (string, error) { return FindAgent("", arch) }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	w := &Crew{c: c}
	w.ctx, w.end = context.WithCancel(context.Background())
	return w
}

// Close ends rounds that run, and waits for them.
func (w *Crew) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.end()
	w.wg.Wait()
}

// Host is one host to go to, and which key it must show.
type Host struct {
	Target      push.Target
	Fingerprint string
}

// Order says what to do on which hosts, and who we are there. The crew owns the secrets
// from Begin on, and overwrites them, also when it refuses the order.
type Order struct {
	Do         string
	Hosts      []Host
	Password   []byte // of the user, for SSH and sudo
	Key        []byte // private, PEM
	Passphrase []byte // of Key
	Server     Server
	Machine    string   // install: name, only of one host; empty: the host's own
	Group      string   // install: consistency group
	Disks      []string // install: PATH[=NAME]; none: all that the agent can follow
	By         string
}

func (o *Order) clear() {
	clear(o.Password)
	clear(o.Key)
	clear(o.Passphrase)
}

// Validate names what cannot work.
func (o *Order) Validate() error {
	switch {
	case !slices.Contains([]string{Install, Upgrade, Uninstall}, o.Do):
		return fmt.Errorf("nothing is called %.40q: install, upgrade or uninstall", o.Do)
	case len(o.Hosts) == 0:
		return errors.New("no host's key was accepted: nothing to do")
	case len(o.Hosts) > MaxHosts:
		return fmt.Errorf("%d hosts, at most %d in a round", len(o.Hosts), MaxHosts)
	case len(o.Password) == 0 && len(o.Key) == 0:
		return errors.New("give the user's password or a private key")
	case o.Machine != "" && len(o.Hosts) > 1:
		return fmt.Errorf("a name is for one machine, and there are %d hosts", len(o.Hosts))
	}
	if o.Do == Install {
		if u, err := url.Parse(o.Server.Manage); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.ContainsAny(o.Server.Manage, " \t\r\n") {
			return fmt.Errorf("the address of this server is %.200q: write https://host:port, as the hosts reach it", o.Server.Manage)
		}
	}
	for _, h := range o.Hosts {
		if h.Fingerprint == "" {
			return fmt.Errorf("the key of %s was not accepted", h.Target)
		}
	}
	return nil
}

// Round is a visit to hosts, as it stands.
type Round struct {
	ID, Do, By     string
	Started, Ended time.Time
	Hosts          []Visit
}

// Visit is how it goes on one host.
type Visit struct {
	Host        string
	Fingerprint string
	Steps       []Step
	Done        bool
	Result      *push.Result // of one that ended well, or that got somewhere
	Error, Try  string
}

// Step is something that was begun on a host.
type Step struct {
	At   time.Time
	What string
}

// Over reports whether nothing more happens.
func (r *Round) Over() bool { return !r.Ended.IsZero() }

// Bad counts the hosts on which it failed, Left those that are not done.
func (r *Round) Bad() (n int) {
	for _, v := range r.Hosts {
		if v.Error != "" {
			n++
		}
	}
	return n
}

// Left counts the hosts that are not done.
func (r *Round) Left() (n int) {
	for _, v := range r.Hosts {
		if !v.Done {
			n++
		}
	}
	return n
}

func (r *Round) clone() *Round {
	c := *r
	c.Hosts = slices.Clone(r.Hosts)
	for i := range c.Hosts {
		c.Hosts[i].Steps = slices.Clone(c.Hosts[i].Steps)
	}
	return &c
}

// Round returns a round as it stands, nil if it is not (any more) known.
func (w *Crew) Round(id string) *Round {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.rounds {
		if r.ID == id {
			return r.clone()
		}
	}
	return nil
}

// Rounds returns what is remembered, the newest first.
func (w *Crew) Rounds() (all []*Round) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range slices.Backward(w.rounds) {
		all = append(all, r.clone())
	}
	return all
}

// ErrBusy means that as many rounds run as may at once.
var ErrBusy = errors.New("other rounds are on their way: wait until one is over")

// Begin starts a round and returns its id.
func (w *Crew) Begin(o Order) (id string, err error) {
	defer func() {
		if err != nil {
			o.clear()
		}
	}()
	if err := o.Validate(); err != nil {
		return "", err
	}
	r := &Round{ID: strings.ToLower(rand.Text()), Do: o.Do, By: o.By, Started: time.Now().UTC()}
	for _, h := range o.Hosts {
		r.Hosts = append(r.Hosts, Visit{Host: h.Target.String(), Fingerprint: h.Fingerprint})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return "", errors.New("the console is stopping")
	case w.busy >= maxBusy:
		return "", ErrBusy
	}
	for i := 0; len(w.rounds) >= maxRounds && i < len(w.rounds); { // the oldest that are over go
		if w.rounds[i].Over() {
			w.rounds = slices.Delete(w.rounds, i, i+1)
			continue
		}
		i++
	}
	w.rounds = append(w.rounds, r)
	w.busy++
	w.wg.Go(func() { w.run(r, o) })
	return r.ID, nil
}

func (w *Crew) run(r *Round, o Order) {
	defer o.clear()
	ctx, cancel := context.WithTimeout(w.ctx, roundTime)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(parallel)
	for i := range o.Hosts {
		g.Go(func() error {
			res, err := w.visit(ctx, r, i, &o)
			w.change(r, i, func(v *Visit) {
				v.Done, v.Result = true, res
				if err != nil {
					v.Error, v.Try = err.Error(), hint(err)
				}
			})
			return nil
		})
	}
	_ = g.Wait() // the errors are in the round
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Ended = time.Now().UTC()
	w.busy--
	w.c.Log.Info("a round over hosts is over", "round", r.ID, "do", r.Do, "by", r.By, "hosts", len(r.Hosts), "failed", r.Bad())
}

func (w *Crew) change(r *Round, i int, fn func(*Visit)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn(&r.Hosts[i])
}

// visit does what is to be done on one host.
func (w *Crew) visit(ctx context.Context, r *Round, i int, o *Order) (*push.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, hostTime)
	defer cancel()
	step := func(what string) {
		w.change(r, i, func(v *Visit) {
			if len(v.Steps) < maxSteps {
				v.Steps = append(v.Steps, Step{time.Now().UTC(), what})
			}
		})
	}
	d := push.Dialer{Alone: true, Timeout: dialTime, HostKeys: []string{o.Hosts[i].Fingerprint}}
	if len(o.Password) > 0 {
		d.Password = o.Password
	}
	if len(o.Key) > 0 {
		d.Keys = [][]byte{o.Key}
		if len(o.Passphrase) > 0 {
			d.Passphrase = func(string) ([]byte, error) { return slices.Clone(o.Passphrase), nil }
		}
	}
	step("signing in")
	h, err := d.Dial(ctx, o.Hosts[i].Target)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	p := push.Options{Binary: w.c.Agent, Unit: Unit(), Machine: o.Machine, Group: o.Group, Disks: o.Disks, Wait: firstBeat, Step: step}
	do := map[string]func(context.Context, *push.Host, push.Server, push.Options) (*push.Result, error){
		Install: push.Install, Upgrade: push.Upgrade, Uninstall: push.Uninstall,
	}[o.Do]
	return do(ctx, h, &o.Server, p)
}

// hint says what to try.
func hint(err error) string {
	switch {
	case errors.Is(err, push.ErrUnreachable):
		return "see that the host is on, that the address and port are right, and that nothing in between refuses"
	case errors.Is(err, push.ErrHostKey):
		return "look at the host's own console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) before you accept another key"
	case errors.Is(err, push.ErrAuth):
		return "see that the user may sign in with this password or key"
	}
	return ""
}

// Seen is what a host shows of itself.
type Seen struct {
	Target push.Target
	Key    push.HostKey
	Error  string
	Try    string
}

// LookAt asks hosts for their keys, in the order of targets.
func LookAt(ctx context.Context, targets []push.Target) []Seen {
	out := make([]Seen, len(targets))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, t := range targets {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, lookTime)
			defer cancel()
			k, err := push.LookAt(ctx, t)
			if out[i] = (Seen{Target: t, Key: k}); err != nil {
				out[i].Error, out[i].Try = err.Error(), hint(err)
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in what was seen
	return out
}
