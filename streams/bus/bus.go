package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options says where the server is and who is connecting. What is set here wins
// over the same field of Context.
type Options struct {
	URL      string // "nats://host:port", "tls://host:port" or several with commas; default nats://127.0.0.1:4222
	Name     string // of the connection, shown by `nats server report connections`
	NKeyFile string // file with the seed of a user key
	// CredsFile is a .creds file (user JWT and seed). At most one of NKeyFile and
	// CredsFile is used, CredsFile first.
	CredsFile string
	CAFile    string // PEM certificates that may have signed the server's; turns TLS on
	CertFile  string // PEM certificate of this client, with KeyFile, if the server asks for one
	KeyFile   string
	// Context is a context of the nats CLI: a file (ends in .json or contains a
	// path separator) or the name of one in $XDG_CONFIG_HOME/nats/context.
	Context string
	// InProcess connects to a server in this process instead of to URL.
	InProcess nats.InProcessConnProvider
	Log       *slog.Logger // nil: silent
}

// Bus is a connection to NATS. Its fields are ready when Connect returns.
type Bus struct {
	Conn *nats.Conn
	JS   jetstream.JetStream

	options Options
	closed  chan struct{}
	once    sync.Once
}

// ErrUnreachable means that no server answered the first connect.
var ErrUnreachable = errors.New("cannot reach")

const (
	connectTimeout = 5 * time.Second
	closeTimeout   = 2 * time.Second
	// ackWait is how long an asynchronous publish waits for its answer. An answer can be
	// lost while this connection stays up: with the node that led the stream. Without a
	// limit its publisher would wait for ever.
	// What is sent a second time by mistake is dropped by its id.
	ackWait = 5 * time.Second
	// pingEvery bounds how long a connection whose other end vanished without a word
	// counts as up, together with silence (see dialer).
	pingEvery = 4 * time.Second
	// reconnectBuffer bounds what callers may publish while disconnected, in
	// bytes. It is small: what the agent has to keep it keeps itself.
	reconnectBuffer = 1 << 20
)

// Connect connects once and fails with a line that says what to try. After that
// it reconnects for ever, with jitter so that many agents do not return at once.
// ctx bounds only the first connect. Call Close when done.
func Connect(ctx context.Context, o Options) (*Bus, error) {
	s, err := resolve(o)
	if err != nil {
		return nil, err
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	b := &Bus{options: o, closed: make(chan struct{})}
	opts, err := s.natsOptions(ctx, b.closed)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.Conn, err = nats.Connect(s.url, opts...)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	s.connected()
	b.JS, err = jetstream.New(b.Conn, jetstream.WithPublishAsyncTimeout(ackWait))
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("use JetStream of %s: %w", s.where(), err)
	}
	return b, nil
}

// Again connects once more in the same way, by another name.
func (b *Bus) Again(ctx context.Context, name string) (*Bus, error) {
	o := b.options
	o.Name = name
	return Connect(ctx, o)
}

// Close sends what is buffered, at most for two seconds, closes the connection
// and waits for it. A nil or closed Bus may be closed again.
func (b *Bus) Close() {
	if b == nil || b.Conn == nil {
		return
	}
	b.once.Do(func() {
		if b.Conn.IsConnected() {
			_ = b.Conn.FlushTimeout(closeTimeout) // what cannot be sent now is lost with the connection
		}
		b.Conn.Close()
	})
	<-b.closed
}

func (s *settings) natsOptions(ctx context.Context, closed chan struct{}) ([]nats.Option, error) {
	timeout := connectTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = max(time.Millisecond, min(timeout, time.Until(d)))
	}
	s.dial = &dialer{ctx: ctx, timeout: timeout, plain: !s.secure()}
	opts := []nats.Option{
		nats.Name(s.name), nats.Timeout(timeout), nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(750*time.Millisecond, 2*time.Second),
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(reconnectBuffer), nats.IgnoreAuthErrorAbort(),
		// Servers announce their other addresses; only the given ones were judged safe.
		nats.IgnoreDiscoveredServers(),
		nats.SetCustomDialer(s.dial),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
		nats.DisconnectErrHandler(func(c *nats.Conn, err error) {
			if err != nil {
				s.log.Warn("bus disconnected", "server", s.where(), "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { s.log.Info("bus connected again", "server", s.where()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			s.log.Warn("bus reports an error", "server", s.where(), "subject", subject, "err", err)
		}),
	}
	if s.inProcess != nil {
		opts = append(opts, nats.InProcessServer(s.inProcess))
	}
	if s.secure() && s.inProcess == nil {
		t, err := s.tls()
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Secure(t))
		if s.tlsFirst {
			opts = append(opts, nats.TLSHandshakeFirst())
		}
	}
	user, err := s.user()
	if err != nil {
		return nil, err
	}
	return append(opts, user...), nil
}

// explain turns the error of a first connect into one line for an operator.
func (s *settings) explain(ctx context.Context, err error) error {
	if dialed := s.dial.last(); errors.Is(err, nats.ErrNoServers) && dialed != nil {
		err = dialed // the client swallows "connection refused"
	}
	if c := ctx.Err(); c != nil {
		err = errors.Join(c, err)
	}
	var op *net.OpError
	reason := err
	if errors.As(err, &op) {
		reason = op.Err // without the addresses: ours says nothing, the other stands before
		var sys *os.SyscallError
		if errors.As(op.Err, &sys) {
			reason = sys.Err
		}
	}
	switch {
	case errors.Is(err, errPlain):
		return fmt.Errorf("will not connect to %s: %w", s.where(), err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("%s refuses %s: is this the context that belongs to this server? (%w)", s.where(), s.who, err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%s offers no TLS, but the URL or a CA file asks for it: start it with a certificate (%w)", s.where(), err)
	case strings.Contains(err.Error(), "tls: "), strings.Contains(err.Error(), "x509: "):
		return fmt.Errorf("cannot trust %s: give the CA file that signed its certificate: %w", s.where(), err)
	}
	return fmt.Errorf("%w %s: %w: is `leeward up` running there?", ErrUnreachable, s.where(), reason)
}

func (s *settings) where() string {
	if s.inProcess != nil {
		return "the server in this process"
	}
	return s.shown
}
