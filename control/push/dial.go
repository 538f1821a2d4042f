package push

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// What can go wrong while signing in, for those who want to tell it apart.
var (
	// ErrHostKey means that the host is not known, or shows another key than it did.
	ErrHostKey = errors.New("the host's key is not trusted")
	// ErrAuth means that the host does not let us in.
	ErrAuth = errors.New("the host does not let us in")
	// ErrUnreachable means that nobody answers there.
	ErrUnreachable = errors.New("the host does not answer")
)

// Target is a host and who to be on it.
type Target struct {
	User string
	Host string // a name or an address
	Port int
}

// ParseTarget reads [USER@]HOST[:PORT]; the user is the caller's and the port 22 if
// they are not given. IPv6 addresses with a port stand in brackets.
func ParseTarget(s, user string) (Target, error) {
	t := Target{User: user, Port: 22}
	rest := s
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		t.User, rest = s[:i], s[i+1:]
	}
	t.Host = strings.Trim(rest, "[]")
	if h, p, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			return Target{}, fmt.Errorf("%q: %q is no port", s, p)
		}
		t.Host, t.Port = h, n
	}
	if t.User == "" || t.Host == "" || strings.ContainsAny(t.User+t.Host, " \t\r\n/'\"\\") || strings.HasPrefix(t.Host, "-") {
		return Target{}, fmt.Errorf("%q names no host: write user@host or user@host:port", s)
	}
	return t, nil
}

// Address is what is dialled.
func (t Target) Address() string { return net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) }

// String is the target as somebody would type it.
func (t Target) String() string {
	if t.Port == 22 {
		return t.User + "@" + t.Host
	}
	return t.User + "@" + t.Address()
}

// Dialer signs in to hosts. It is safe for use by several goroutines.
type Dialer struct {
	Identities []string // files with private keys; none: the usual ones below ~/.ssh
	AgentSock  string   // socket of an SSH agent, empty for none
	Password   []byte   // of the user, also for sudo; nil: there is none
	// Passphrase asks for that of a key file; nil refuses keys that have one.
	Passphrase func(file string) ([]byte, error)
	KnownHosts []string // files; none: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts
	HostKeys   []string // fingerprints that are right beside those, SHA256:…
	Timeout    time.Duration
	// Alone leaves everything out that belongs to whoever runs this program: keys and known
	// hosts in files, the SSH agent. What is left are Keys, Password and HostKeys.
	Alone bool
	Keys  [][]byte // private keys as PEM, beside those in files; Passphrase is asked for "the key"
}

// HostKey is what a host shows of itself.
type HostKey struct {
	Type        string // like ssh-ed25519
	Fingerprint string // SHA256:…
}

// errSeen ends a handshake of which no more than the host's key is wanted.
var errSeen = errors.New("the key is seen")

// preferred are kinds of host keys, the better first: who looks at a host's key and who
// signs in later must be shown the same one.
var preferred = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// LookAt asks a host for its key and goes away. Nothing of it is believed: a person has to
// compare it.
func LookAt(ctx context.Context, t Target) (k HostKey, err error) {
	see := func(_ string, _ net.Addr, key ssh.PublicKey) error {
		k = HostKey{Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key)}
		return errSeen
	}
	c, err := handshake(ctx, t, &ssh.ClientConfig{User: t.User, HostKeyCallback: see, HostKeyAlgorithms: preferred})
	switch {
	case err == nil: // it cannot be: see lets nobody in
		_ = c.conn.Close()
	case k == HostKey{}:
		return k, fmt.Errorf("%s: %w", t, signIn(err))
	}
	return k, nil
}

// shaken are the ends of a handshake.
type shaken struct {
	conn  ssh.Conn
	chans <-chan ssh.NewChannel
	reqs  <-chan *ssh.Request
	local net.Addr
}

// handshake dials and greets, until ctx ends.
func handshake(ctx context.Context, t Target, c *ssh.ClientConfig) (s shaken, err error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Address())
	if err != nil {
		return s, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() }) // ends a handshake that hangs
	s.local = nc.LocalAddr()
	s.conn, s.chans, s.reqs, err = ssh.NewClientConn(nc, t.Address(), c)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
	}
	return s, err
}

// Dial signs in. The host is closed by the caller.
func (d *Dialer) Dial(ctx context.Context, t Target) (*Host, error) {
	if d.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	check, prefer, err := d.hostKey(t)
	if err != nil {
		return nil, err
	}
	auth, done, err := d.auth()
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := handshake(ctx, t, &ssh.ClientConfig{User: t.User, Auth: auth, HostKeyCallback: check, HostKeyAlgorithms: prefer, Timeout: d.Timeout})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t, signIn(err))
	}
	return &Host{Target: t, client: ssh.NewClient(c.conn, c.chans, c.reqs), local: c.local, password: d.Password}, nil
}

// signIn names why the handshake failed.
func signIn(err error) error {
	switch {
	case errors.Is(err, ErrHostKey), errors.Is(err, ErrUnreachable):
		return err
	// 51 is the server's "not so", also where package ssh waits for something else: when the
	// password was wrong and questions are not asked at all.
	case strings.Contains(err.Error(), "unexpected message type 51 "):
		return fmt.Errorf("%w: it refused the password", ErrAuth)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("%w: %w", ErrAuth, err)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// hostKey makes the check of a host's key. The algorithms are those of the keys that are
// known: a server with several shows the one that can be checked.
func (d *Dialer) hostKey(t Target) (ssh.HostKeyCallback, []string, error) {
	if d.Alone {
		return func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if print := ssh.FingerprintSHA256(key); !slices.Contains(d.HostKeys, print) {
				return fmt.Errorf("%w: it shows %s, which is not the key that was accepted: somebody may be in between", ErrHostKey, print)
			}
			return nil
		}, preferred, nil
	}
	files := d.KnownHosts
	if len(files) == 0 {
		if home, err := os.UserHomeDir(); err == nil {
			files = append(files, filepath.Join(home, ".ssh", "known_hosts"))
		}
		files = append(files, "/etc/ssh/ssh_known_hosts")
		there := files[:0]
		for _, f := range files {
			if _, err := os.Stat(f); err == nil {
				there = append(there, f)
			}
		}
		files = there
	}
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, nil, fmt.Errorf("read the known hosts: %w", err)
	}
	check := func(address string, remote net.Addr, key ssh.PublicKey) error {
		print := ssh.FingerprintSHA256(key)
		if slices.Contains(d.HostKeys, print) {
			return nil
		}
		err := known(address, remote, key)
		if err == nil {
			return nil
		}
		var k *knownhosts.KeyError
		if errors.As(err, &k) && len(k.Want) == 0 {
			return fmt.Errorf("%w: it is not among the known hosts; it shows a key of type %s, %s: compare it with what the host's own console says (ssh-keygen -lf /etc/ssh/ssh_host_…_key.pub), then name it with --host-key", ErrHostKey, key.Type(), print)
		}
		if errors.As(err, &k) {
			return fmt.Errorf("%w: it shows %s, and %s line %d has another: somebody may be in between; if the host was made anew, remove that line", ErrHostKey, print, k.Want[0].Filename, k.Want[0].Line)
		}
		return fmt.Errorf("%w: %w", ErrHostKey, err)
	}
	return check, algorithms(known, t), nil
}

// algorithms asks the known hosts which kinds of keys they have for the target, by
// offering one that nobody has.
func algorithms(known ssh.HostKeyCallback, t Target) []string {
	var k *knownhosts.KeyError
	if err := known(t.Address(), &net.TCPAddr{}, nobody{}); !errors.As(err, &k) {
		return nil
	}
	var all []string
	for _, w := range k.Want {
		switch a := w.Key.Type(); a {
		case ssh.KeyAlgoRSA:
			all = append(all, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			all = append(all, a)
		}
	}
	return all
}

// nobody is a key that no host has.
type nobody struct{}

func (nobody) Type() string                        { return "nobody" }
func (nobody) Marshal() []byte                     { return []byte("nobody") }
func (nobody) Verify([]byte, *ssh.Signature) error { return errors.New("nobody's key") }

// auth lists the ways in, in the order in which they are tried. done ends what they need.
func (d *Dialer) auth() (ways []ssh.AuthMethod, done func(), err error) {
	done = func() {}
	signers, err := d.signers()
	if err != nil {
		return nil, nil, err
	}
	var more func() ([]ssh.Signer, error)
	if d.AgentSock != "" && !d.Alone {
		c, err := net.Dial("unix", d.AgentSock)
		if err != nil {
			return nil, nil, fmt.Errorf("ask the SSH agent: %w: start it, or unset SSH_AUTH_SOCK", err)
		}
		done, more = func() { _ = c.Close() }, agent.NewClient(c).Signers
	}
	// All keys are one method: a second of the same kind would never be tried.
	ways = append(ways, ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
		if more == nil {
			return signers, nil
		}
		all, err := more()
		return append(signers, all...), err
	}))
	if d.Password != nil {
		ways = append(ways, ssh.Password(string(d.Password)), ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
			answers := make([]string, len(questions))
			for i := range answers {
				answers[i] = string(d.Password)
			}
			return answers, nil
		}))
	}
	return ways, done, nil
}

// signers reads the private keys. One that was named must be readable; the usual ones may
// be missing or need a passphrase.
func (d *Dialer) signers() (all []ssh.Signer, err error) {
	for _, pem := range d.Keys {
		s, err := d.parse(pem, "the key")
		if err != nil {
			return nil, fmt.Errorf("read the private key: %w", err)
		}
		all = append(all, s)
	}
	if d.Alone {
		return all, nil
	}
	files, named := d.Identities, len(d.Identities) > 0
	if !named {
		home, err := os.UserHomeDir()
		if err != nil {
			return all, nil // nobody's home has no keys
		}
		for _, n := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			files = append(files, filepath.Join(home, ".ssh", n))
		}
	}
	for _, f := range files {
		s, err := d.signer(f)
		if err != nil {
			if !named && (errors.Is(err, fs.ErrNotExist) || errors.As(err, new(*ssh.PassphraseMissingError))) {
				continue
			}
			return nil, fmt.Errorf("read the private key %s: %w", f, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func (d *Dialer) signer(file string) (ssh.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	return d.parse(b, file)
}

// parse reads a private key, and asks for its passphrase if it has one.
func (d *Dialer) parse(b []byte, file string) (ssh.Signer, error) {
	s, err := ssh.ParsePrivateKey(b)
	if errors.As(err, new(*ssh.PassphraseMissingError)) && d.Passphrase != nil {
		word, err := d.Passphrase(file)
		if err != nil {
			return nil, err
		}
		defer clear(word)
		return ssh.ParsePrivateKeyWithPassphrase(b, word)
	}
	return s, err
}
