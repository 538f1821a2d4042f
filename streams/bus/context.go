package bus

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// settings are Options and a context file folded together.
type settings struct {
	url, shown          string // shown: without user and password
	name                string
	nkey, creds         string
	ca, cert, key       string
	userName, pass, tok string
	inbox               string
	tlsFirst            bool
	inProcess           nats.InProcessConnProvider
	log                 *slog.Logger
	who                 string // the identity that the server is shown, for people
	dial                *dialer
}

// natsContext is the part of the nats CLI's context file that we understand.
type natsContext struct {
	URL      string `json:"url"`
	Token    string `json:"token"`
	User     string `json:"user"`
	Password string `json:"password"`
	Creds    string `json:"creds"`
	NKey     string `json:"nkey"`
	Cert     string `json:"cert"`
	Key      string `json:"key"`
	CA       string `json:"ca"`
	Inbox    string `json:"inbox_prefix"`
	TLSFirst bool   `json:"tls_first"`
	// Fields that change where or who we are; to ignore them would be wrong.
	NSC    string `json:"nsc"`
	JWT    string `json:"user_jwt"`
	Seed   string `json:"user_seed"`
	Socks  string `json:"socks_proxy"`
	Domain string `json:"jetstream_domain"`
	API    string `json:"jetstream_api_prefix"`
}

func resolve(o Options) (*settings, error) {
	s := &settings{name: o.Name, inProcess: o.InProcess, log: o.Log}
	if o.Context != "" {
		c, err := readContext(o.Context)
		if err != nil {
			return nil, err
		}
		s.url, s.nkey, s.creds, s.ca, s.cert, s.key = c.URL, c.NKey, c.Creds, c.CA, c.Cert, c.Key
		s.userName, s.pass, s.tok, s.inbox, s.tlsFirst = c.User, c.Password, c.Token, c.Inbox, c.TLSFirst
	}
	if o.NKeyFile != "" || o.CredsFile != "" {
		s.nkey, s.creds, s.inbox = o.NKeyFile, o.CredsFile, ""
		s.userName, s.pass, s.tok = "", "", ""
	}
	for _, f := range []struct {
		to   *string
		from string
	}{{&s.url, o.URL}, {&s.ca, o.CAFile}, {&s.cert, o.CertFile}, {&s.key, o.KeyFile}} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	if s.url == "" {
		s.url = nats.DefaultURL
	}
	return s, s.checkURL()
}

// checkURL refuses what the client would misread and prepares the URL for people.
func (s *settings) checkURL() error {
	var shown []string
	for u := range strings.SplitSeq(s.url, ",") {
		u = strings.TrimSpace(u)
		if !strings.Contains(u, "://") {
			u = "nats://" + u
		}
		p, err := url.Parse(u)
		if err != nil || p.Hostname() == "" {
			return fmt.Errorf("server URL %q is not understood: write nats://host:port or tls://host:port", u)
		}
		switch p.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return fmt.Errorf("server URL %q has scheme %q: use nats, tls, ws or wss", u, p.Scheme)
		}
		p.User = nil
		shown = append(shown, p.String())
	}
	s.shown = strings.Join(shown, ",")
	return nil
}

// secure reports whether every connection will be encrypted.
func (s *settings) secure() bool {
	if s.ca != "" || s.cert != "" || s.tlsFirst {
		return true
	}
	for u := range strings.SplitSeq(s.shown, ",") {
		if !strings.HasPrefix(u, "tls://") && !strings.HasPrefix(u, "wss://") {
			return false
		}
	}
	return true
}

func (s *settings) connected() { s.dial.later() }

func (s *settings) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.ca != "" {
		pem, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, fmt.Errorf("read the CA file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s holds no PEM certificate", s.ca)
		}
	}
	if s.cert != "" || s.key != "" {
		c, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, fmt.Errorf("load client certificate %s with key %s: %w", s.cert, s.key, err)
		}
		t.Certificates = []tls.Certificate{c}
	}
	return t, nil
}

// user returns the options that say who we are, and the inbox of that user.
func (s *settings) user() ([]nats.Option, error) {
	var opts []nats.Option
	inbox := s.inbox
	switch {
	case s.creds != "":
		pub, err := publicKey(s.creds)
		if err != nil {
			return nil, err
		}
		s.who = fmt.Sprintf("user %s (%s)", pub, s.creds)
		opts = append(opts, nats.UserCredentials(s.creds))
		inbox = orElse(inbox, InboxPrefix(pub))
	case s.nkey != "":
		pub, err := publicKey(s.nkey)
		if err != nil {
			return nil, err
		}
		o, err := nats.NkeyOptionFromSeed(s.nkey)
		if err != nil {
			return nil, fmt.Errorf("read key file %s: %w", s.nkey, err)
		}
		s.who = fmt.Sprintf("key %s (%s)", pub, s.nkey)
		opts = append(opts, o)
		inbox = orElse(inbox, InboxPrefix(pub))
	case s.tok != "":
		s.who = "the token of the context"
		opts = append(opts, nats.Token(s.tok))
	case s.userName != "":
		s.who = fmt.Sprintf("user %q", s.userName)
		opts = append(opts, nats.UserInfo(s.userName, s.pass))
	default:
		s.who = "a connection without a key (give a context, key or creds file)"
	}
	if inbox != "" {
		opts = append(opts, nats.CustomInboxPrefix(inbox))
	}
	return opts, nil
}

// InboxPrefix is the subject below which the user with this public key receives
// replies. A server's permissions name it.
func InboxPrefix(publicKey string) string { return "_INBOX." + publicKey }

// publicKey reads the seed in a key or creds file and forgets it again.
func publicKey(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read key file: %w", err)
	}
	defer clear(b)
	kp, err := nkeys.ParseDecoratedUserNKey(b)
	if err != nil {
		return "", fmt.Errorf("file %s holds no user key (a seed that starts with SU): %w", file, err)
	}
	defer kp.Wipe()
	return kp.PublicKey()
}

func readContext(name string) (*natsContext, error) {
	file := name
	if !strings.HasSuffix(name, ".json") && !strings.ContainsRune(name, filepath.Separator) {
		root := os.Getenv("XDG_CONFIG_HOME")
		if root == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return nil, fmt.Errorf("look for context %q: %w", name, err)
			}
			root = filepath.Join(home, ".config")
		}
		file = filepath.Join(root, "nats", "context", name+".json")
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no context %q (looked for %s): give the path of a context file", name, file)
	}
	if err != nil {
		return nil, fmt.Errorf("read context: %w", err)
	}
	var c natsContext
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("context %s is not a nats CLI context: %w", file, err)
	}
	for field, v := range map[string]string{
		"nsc": c.NSC, "user_jwt": c.JWT, "user_seed": c.Seed, "socks_proxy": c.Socks,
		"jetstream_domain": c.Domain, "jetstream_api_prefix": c.API,
	} {
		if v != "" {
			return nil, fmt.Errorf("context %s uses %q, which Leeward does not support: use nkey or creds", file, field)
		}
	}
	for _, p := range []*string{&c.Creds, &c.NKey, &c.Cert, &c.Key, &c.CA} {
		if rest, ok := strings.CutPrefix(*p, "~/"); ok {
			if home, err := os.UserHomeDir(); err == nil {
				*p = filepath.Join(home, rest)
			}
		}
		*p = strings.TrimPrefix(*p, "file://")
	}
	return &c, nil
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Where says where o leads: the file with the certificates that may have signed the
// servers', if one is named, and the servers' URLs, without users and passwords.
func Where(o Options) (caFile string, urls []string, err error) {
	s, err := resolve(o)
	if err != nil {
		return "", nil, err
	}
	return s.ca, strings.Split(s.shown, ","), nil
}
