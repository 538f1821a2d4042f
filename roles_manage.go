package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/control/console"
	"github.com/leeward-dr/leeward/control/console/web"
	"github.com/leeward-dr/leeward/control/enrol"
	"github.com/leeward-dr/leeward/control/push/crew"
	"github.com/leeward-dr/leeward/embed"
	"github.com/leeward-dr/leeward/embed/appliance"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/trust"
	"github.com/leeward-dr/leeward/streams/wire"
)

// manageFlags are those of the management port of a role that runs on its own.
type manageFlags struct {
	listen, advertise, cert, key, ca string
}

func (f *manageFlags) add(c *cobra.Command, about string) {
	s := c.Flags()
	s.StringVar(&f.listen, "manage", "", "address of the management port: "+about+" (default: none)")
	s.StringVar(&f.advertise, "advertise", "", "host:port by which others know --manage, for the certificate that is made")
	s.StringVar(&f.cert, "tls-cert", "", "PEM certificate of --manage (default: one of DIR/tls, made when other machines can reach it)")
	s.StringVar(&f.key, "tls-key", "", "PEM key of --manage")
	s.StringVar(&f.ca, "tls-ca", "", "PEM certificates that signed --tls-cert")
}

// port is the management port of a process; nil if there is none.
type port struct {
	server *console.Server
	pin    string // of what agents are to trust when they enrol here; empty without TLS
}

// open opens the port. Its files are below dir.
func (f *manageFlags) open(dir string, log *slog.Logger, c console.Config) (*port, error) {
	if f.listen == "" {
		return &port{}, nil
	}
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return nil, fmt.Errorf("--manage is %q: write host:port", f.listen)
	}
	p := &port{}
	c.Listen, c.Log = f.listen, log
	if c.TLS, p.pin, err = embed.ListenerTLS(embed.Config{
		Dir: dir, Listen: net.JoinHostPort(host, "-1"), Advertise: f.advertise, Cert: f.cert, Key: f.key, CA: f.ca, Log: log,
	}); err != nil {
		return nil, err
	}
	if c.Token, err = appliance.MetricsToken(dir); err != nil {
		return nil, err
	}
	if p.server, err = console.Start(c); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *port) close() error {
	if p.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), roleStop)
	defer cancel()
	return p.server.Stop(ctx)
}

// say tells people where the port is.
func (p *port) say(w io.Writer) {
	if p.server == nil {
		return
	}
	fmt.Fprintf(w, "  manage    %s\n", p.server.URL())
	if p.pin != "" {
		fmt.Fprintf(w, "  ca pin    %s\n", p.pin)
	}
}

// stage is where the control that is active stands; nil while another one is. One that
// waits lets agents in too, where it has the keys: tokens and agents are on the bus, and each
// is changed by one. So whoever is asked behind a common address can do what is asked.
type stage struct {
	atomic.Pointer[control.Service]
	url     string // of the console; empty: none
	waiting atomic.Pointer[understudy]
}

// understudy is what a control can do while it waits.
type understudy struct {
	bus   *bus.Bus
	vault *vault.Vault
	keys  *enrol.Options // nil: none
	log   *slog.Logger

	mu    sync.Mutex // guards enrol
	enrol *enrol.Service
}

var (
	errWaits  = errors.New("this control has just started and does not know yet whether another one is active")
	errNoKeys = errors.New("this control has no keys to let agents in: ask one that has (DIR/trust)")
)

// ready returns nil if it could take over now.
func (u *understudy) ready(ctx context.Context) error {
	if err := made(ctx, u.bus, ""); err != nil {
		return fmt.Errorf("it waits, and could not take over now: %w", err)
	}
	if _, err := u.vault.Disks(ctx); err != nil {
		return fmt.Errorf("it waits, and could not take over now: read the vault: %w", err)
	}
	return nil
}

// service lets agents in. It is made at the first need: only then are its buckets there.
func (u *understudy) service(ctx context.Context) (*enrol.Service, error) {
	if u.keys == nil {
		return nil, errNoKeys
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.enrol == nil {
		o := *u.keys
		o.Log, o.Tell = u.log, func(e *wire.Event) { control.Tell(ctx, u.bus, u.log, e) }
		s, err := enrol.New(ctx, u.bus.JS, o)
		if err != nil {
			return nil, err
		}
		u.enrol = s
	}
	return u.enrol, nil
}

// console is what the management port of a control answers with.
func (s *stage) console() console.Config {
	return console.Config{
		Enrol: func() (*enrol.Service, error) {
			if c := s.Load(); c != nil {
				return c.Enrolment()
			}
			if u := s.waiting.Load(); u != nil {
				ctx, cancel := context.WithTimeout(context.Background(), roleStart)
				defer cancel()
				return u.service(ctx)
			}
			return nil, errWaits
		},
		Ready: func(ctx context.Context) error {
			if c := s.Load(); c != nil {
				return c.ReadyNow(ctx)
			}
			if u := s.waiting.Load(); u != nil {
				return u.ready(ctx)
			}
			return errWaits
		},
		// One that waits has little to tell, which is no fault.
		Metrics: []func(context.Context) ([]console.Family, error){console.Runtime, func(ctx context.Context) ([]console.Family, error) {
			active := func(v float64) console.Family {
				return console.Of("leeward_control_active", "1 if this control is the one that decides, 0 if it waits", console.Gauge, v)
			}
			if c := s.Load(); c != nil {
				f, err := c.Metrics(ctx)
				return append(f, active(1)), err
			}
			return []console.Family{active(0)}, nil
		}},
	}
}

// enter puts a control on the stage while its application runs, and makes it one that
// lets agents in, if o is set.
func (s *stage) enter(o *enrol.Options) fx.Option {
	return fx.Invoke(func(lc fx.Lifecycle, c *control.Service) error {
		if o != nil {
			ctx, cancel := context.WithTimeout(context.Background(), roleStart)
			defer cancel()
			if err := c.LetIn(ctx, *o); err != nil {
				return err
			}
		}
		c.ConsoleAt(s.url)
		lc.Append(fx.StartStopHook(func() { s.Store(c) }, func() { s.Store(nil) }))
		return nil
	})
}

// pages makes the console of a control, from the keys below dir; nil where there are none.
// It asks whichever control is active, over the bus.
func pages(dir string, m manageFlags, connect bus.Options, version string, log *slog.Logger) (console.Pages, error) {
	keys := filepath.Join(dir, "trust")
	if _, err := os.Stat(filepath.Join(keys, "operator.nk")); m.listen == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	t, err := trust.Open(keys)
	if err != nil {
		return nil, err
	}
	return web.New(web.Config{Version: version, Log: log, Crew: crew.New(crew.Config{Log: log}), Connect: func(ctx context.Context, r trust.Role) (*bus.Bus, error) {
		o := connect // its address and authority, with the role's key
		o.CredsFile, o.Name, o.Log = t.CredsFile(r), "leeward console ("+string(r)+")", log
		return bus.Connect(ctx, o)
	}})
}

// authority makes what lets agents in, from the keys below dir (leeward nats init). It
// returns nil where there are none. The caller closes the connection.
func authority(ctx context.Context, dir, pin string, connect bus.Options, log *slog.Logger) (*enrol.Options, *bus.Bus, error) {
	keys := filepath.Join(dir, "trust")
	if _, err := os.Stat(filepath.Join(keys, "operator.nk")); errors.Is(err, fs.ErrNotExist) {
		log.Warn("this control lets no agents in: the keys are not here", "wanted", keys)
		return nil, nil, nil
	}
	t, err := trust.Open(keys)
	if err != nil {
		return nil, nil, err
	}
	o := &enrol.Options{Pin: pin, Replicas: 1}
	ca, urls, err := bus.Where(connect)
	if err != nil {
		return nil, nil, err
	}
	o.URL = strings.Join(urls, ",")
	if ca != "" {
		b, err := os.ReadFile(ca)
		if err != nil {
			return nil, nil, fmt.Errorf("read the CA file of the bus: %w", err)
		}
		o.CA = string(b)
	}
	connect.CredsFile, connect.Name, connect.Log = t.SystemCreds(), "leeward authority", log
	b, err := bus.Connect(ctx, connect)
	if err != nil {
		return nil, nil, fmt.Errorf("connect as the authority: %w", err)
	}
	o.Issuer = t.Authority(b.Conn)
	if b.Conn.ConnectedClusterName() != "" {
		o.Replicas = 3
	}
	return o, b, nil
}
