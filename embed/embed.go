package embed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/trust"
)

// syncInterval is how much of the tail a power failure may take, and how late the
// space of drained messages comes back.
const syncInterval = time.Second

// noLimit is the server's own limit of the store, in bytes. What bounds the store
// is the size of CHANGES (Streams): a server whose streams once were promised more
// than its limit refuses every change to them, even one that makes them smaller.
const noLimit = 1 << 50

// Server is a running NATS server. Stop it.
type Server struct {
	cfg   Config
	ns    *server.Server
	lock  lock
	trust *trust.Trust
	known *server.DirAccResolver // the accounts' tokens
	certs *certs                 // nil: nothing leaves this machine
	audit *audit
	url   string
	store int64

	mu    sync.Mutex
	buses []*bus.Bus
	once  sync.Once
}

// Start runs a server and returns when it takes connections and its streams are
// recovered. When ctx ends meanwhile it gives up, but not before the streams are
// recovered. Nothing stays behind if it fails.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg, err := cfg.absolute()
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg}
	if s.lock, err = hold(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.halt())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	used, free, err := space(s.cfg.Dir)
	if err != nil {
		return err
	}
	if s.store, err = storeLimit(s.cfg.Dir, s.cfg.MaxStore, used, free); err != nil {
		return err
	}
	if s.trust, err = trust.Open(filepath.Join(s.cfg.Dir, "trust")); err != nil {
		return err
	}
	if err := s.moveStreams(); err != nil {
		return err
	}
	if s.certs, err = newCerts(s.cfg); err != nil {
		return err
	}
	opts, err := s.options()
	if err != nil {
		return err
	}
	if err := s.free(opts.Host, opts.Port); err != nil {
		return err
	}
	if s.ns, err = server.NewServer(opts); err != nil {
		return fmt.Errorf("make the NATS server: %w", err)
	}
	log := &logger{log: s.cfg.Log}
	if s.cfg.Refused != nil {
		s.audit = newAudit(s.cfg.Refused, auditEvery)
		log.audit = s.audit
	}
	s.ns.SetLoggerV2(log, false, false, false)
	if err := s.wait(ctx, log); err != nil {
		return err
	}
	s.url = s.clientURL()
	return writeContexts(s.cfg.Dir, s.trust, s.url, s.CAFile())
}

func (s *Server) options() (*server.Options, error) {
	o := &server.Options{}
	err := s.trusted(o)
	if err != nil {
		return nil, err
	}
	if o.Host, o.Port, err = s.cfg.listen(); err != nil {
		return nil, err
	}
	if o.Host == "" {
		o.Host = "0.0.0.0"
	}
	o.ServerName, o.NoSigs, o.NoLog = "leeward", true, true
	o.ClientAdvertise = s.cfg.Advertise
	o.MaxPayload = streams.MaxMessage
	o.JetStream, o.StoreDir, o.JetStreamMaxStore, o.JetStreamMaxMemory = true, s.cfg.Dir, noLimit, 64<<20
	o.SyncInterval = syncInterval
	if d := s.cfg.LameDuck; d > 0 {
		// Half to let clients go by themselves, half to close them one by one.
		o.LameDuckDuration, o.LameDuckGracePeriod = d, d/2
	}
	if s.certs != nil {
		o.TLSConfig, o.TLS, o.TLSTimeout = s.certs.config(), true, 5
	}
	return o, nil
}

// free says in advance what the server would only log.
func (s *Server) free(host string, port int) error {
	if port < 0 {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	switch {
	case err == nil:
		return l.Close()
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d of %s is in use: is another appliance or a NATS server running? Stop it or choose another port with --listen", port, host)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("port %d of %s needs root: choose one above 1023 with --listen", port, host)
	}
	return fmt.Errorf("listen on %s: %w: is that an address of this machine?", s.cfg.Listen, err)
}

func (s *Server) wait(ctx context.Context, log *logger) error {
	// Recovers the streams before it returns: seconds for many gigabytes. It cannot
	// be interrupted, the server is not made to be stopped while it starts.
	s.ns.Start()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start the NATS server on %s: %w: much to recover takes long, allow more time", s.cfg.Dir, err)
	}
	if line := log.first(); line != "" {
		return fmt.Errorf("start the NATS server on %s: %s", s.cfg.Dir, line)
	}
	if !s.ns.ReadyForConnections(5 * time.Second) {
		return fmt.Errorf("the NATS server on %s does not listen on %s", s.cfg.Dir, s.cfg.Listen)
	}
	return s.Ready()
}

func (s *Server) clientURL() string {
	scheme, at := "nats", s.cfg.Advertise
	if s.certs != nil {
		scheme = "tls"
	}
	if at == "" {
		host, _, _ := s.cfg.listen()
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		at = net.JoinHostPort(host, strconv.Itoa(s.ns.Addr().(*net.TCPAddr).Port))
	}
	return scheme + "://" + at
}

// TLS is what a listener of this appliance beside the server uses; nil where
// nothing leaves this machine.
func (s *Server) TLS() *tls.Config {
	if s.certs == nil {
		return nil
	}
	return s.certs.config()
}

// CAFile holds what clients need to trust the server; empty without TLS, or where
// the certificate that was given needs none.
func (s *Server) CAFile() string {
	if s.certs == nil {
		return ""
	}
	return s.certs.ca
}

// CAPin is the pin (see Pin) of what clients shall trust; empty without TLS.
func (s *Server) CAPin() (string, error) {
	if s.certs == nil {
		return "", nil
	}
	return s.certs.pin()
}

// ClientURL is where clients connect; the contexts name it.
func (s *Server) ClientURL() string { return s.url }

// Streams sizes the streams for this server: pass it to streams.Ensure. CHANGES
// gets what the store has left after the small streams, at most the default.
func (s *Server) Streams() streams.Config {
	c := streams.Default()
	c.ChangesBytes = min(c.ChangesBytes, s.store-smallOnes)
	return c
}

// Connect connects inside the process. The connection ends with the server at the
// latest; close it before, when its user is done.
func (s *Server) Connect(ctx context.Context, r Role) (*bus.Bus, error) {
	return s.connect(ctx, bus.Options{Name: "leeward " + string(r), CredsFile: s.CredsFile(r), InProcess: s.ns, Log: s.cfg.Log})
}

// Authority issues and revokes the users of agents on this server. It uses a
// connection inside the process that ends with the server.
func (s *Server) Authority(ctx context.Context) (*trust.Authority, error) {
	b, err := s.connect(ctx, bus.Options{Name: "leeward authority", CredsFile: s.trust.SystemCreds(), InProcess: s.ns, Log: s.cfg.Log})
	if err != nil {
		return nil, err
	}
	return s.trust.Authority(b.Conn), nil
}

func (s *Server) connect(ctx context.Context, o bus.Options) (*bus.Bus, error) {
	b, err := bus.Connect(ctx, o)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.buses = append(s.buses, b)
	s.mu.Unlock()
	return b, nil
}

// Ready reports why the server cannot serve: it is down, or JetStream turned
// itself off, which it does when its disk fails or is full.
func (s *Server) Ready() error {
	if !s.ns.Running() {
		return errors.New("the NATS server is down")
	}
	if !s.ns.JetStreamEnabled() {
		return fmt.Errorf("JetStream is off: is the disk of %s full or broken?", s.cfg.Dir)
	}
	return nil
}

// Stop closes the connections that Connect made, lets others go (LameDuck), stops
// the server and waits for it. When ctx ends the clients are cut off at once; the
// streams are closed properly in any case.
func (s *Server) Stop(ctx context.Context) (err error) {
	s.once.Do(func() {
		s.mu.Lock()
		buses := s.buses
		s.mu.Unlock()
		for _, b := range buses {
			b.Close()
		}
		if s.cfg.LameDuck > 0 {
			left := make(chan struct{})
			go func() {
				defer close(left)
				s.ns.LameDuckShutdown()
			}()
			select {
			case <-left:
			case <-ctx.Done():
				s.ns.Shutdown()
				<-left
			}
		}
		err = s.halt()
	})
	return err
}

// halt ends whatever runs and gives the directory back.
func (s *Server) halt() error {
	if s.ns != nil {
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
	} else if s.known != nil {
		s.known.Close() // or the server would have
	}
	if s.audit != nil {
		s.audit.close() // after the last line of the server's log
	}
	return s.lock.release()
}
