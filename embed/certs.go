package embed

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/streams/trust"
)

// How long what we make ourselves is good for.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 90 * 24 * time.Hour
	// renewBefore is how long before its end our own certificate is made anew.
	renewBefore = certLife / 3
	// backdate is for clients whose clock is behind.
	backdate = time.Hour
	// lookEvery is how often given files are looked at for a new certificate.
	lookEvery = 10 * time.Second
)

// certs hands out the server's certificate: the one in given files, read again
// when they change, or one of our own below DIR/tls, made again before it ends.
type certs struct {
	cert, key string // files
	ca        string // file with what clients trust; empty with given files without --tls-ca
	own       *ownCA // nil with given files
	names     []string
	log       *slog.Logger
	now       func() time.Time

	mu     sync.Mutex
	pair   *tls.Certificate
	looked time.Time
	stamp  time.Time // of the newer of the given files
}

// ownCA is the authority of an appliance that was given no certificate.
type ownCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// newCerts prepares TLS for c; nil where everything stays on this machine.
func newCerts(c Config) (*certs, error) {
	s := &certs{cert: c.Cert, key: c.Key, ca: c.CA, log: c.Log, now: time.Now}
	if c.Cert == "" {
		host, _, err := c.listen()
		if err != nil {
			return nil, err
		}
		if loopback(host) {
			return nil, nil
		}
		dir := filepath.Join(c.Dir, "tls")
		s.cert, s.key, s.ca = filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"), filepath.Join(dir, "ca.pem")
		s.names = ownNames(host, c.Advertise)
		if s.own, err = openCA(dir, s.now()); err != nil {
			return nil, err
		}
	} else if c.CA != "" {
		if _, err := os.Stat(c.CA); err != nil {
			return nil, fmt.Errorf("read --tls-ca: %w", err)
		}
	}
	return s, s.load()
}

// ListenerTLS prepares TLS for a listener without a server: with c's Cert and Key, or
// with what is made below c.Dir. Both results are empty where only this machine can
// reach c.Listen. pin is the Pin of what clients shall trust.
func ListenerTLS(c Config) (conf *tls.Config, pin string, err error) {
	if (c.Cert == "") != (c.Key == "") {
		return nil, "", errors.New("--tls-cert and --tls-key belong together: set both or neither")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c, err = c.absolute(); err != nil {
		return nil, "", err
	}
	s, err := newCerts(c)
	if err != nil || s == nil {
		return nil, "", err
	}
	if pin, err = s.pin(); err != nil {
		return nil, "", err
	}
	return s.config(), pin, nil
}

// config is what listeners use.
func (s *certs) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current(), nil },
	}
}

// current is the certificate to show now. What cannot be renewed or read is
// logged, and the old one shown on.
func (s *certs) current() *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if now.Sub(s.looked) < lookEvery {
		return s.pair
	}
	s.looked = now
	if err := s.refresh(now); err != nil {
		s.log.Error("cannot renew the server's certificate; the old one is used on", "file", s.cert, "err", err)
	}
	return s.pair
}

// load reads or makes the first certificate.
func (s *certs) load() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked = s.now()
	return s.refresh(s.looked)
}

func (s *certs) refresh(now time.Time) error {
	if s.own != nil {
		return s.refreshOwn(now)
	}
	stamp, err := newest(s.cert, s.key)
	if err != nil {
		return fmt.Errorf("load certificate %s with key %s: %w", s.cert, s.key, err)
	}
	if s.pair != nil && stamp.Equal(s.stamp) {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(s.cert, s.key)
	if err != nil {
		return fmt.Errorf("load certificate %s with key %s: %w", s.cert, s.key, err)
	}
	if end := pair.Leaf.NotAfter; now.After(end) {
		return fmt.Errorf("certificate %s expired on %s: renew it", s.cert, end.Format(time.DateOnly))
	}
	if s.pair != nil {
		s.log.Info("the server shows a new certificate", "file", s.cert, "until", pair.Leaf.NotAfter)
	}
	s.pair, s.stamp = &pair, stamp
	return nil
}

func (s *certs) refreshOwn(now time.Time) error {
	if s.pair == nil { // a restart: go on with what is there, if it is good
		if pair, err := tls.LoadX509KeyPair(s.cert, s.key); err == nil && s.own.signed(pair.Leaf) && slices.Equal(namesOf(pair.Leaf), s.names) {
			s.pair = &pair
		}
	}
	if s.pair != nil && now.Before(s.pair.Leaf.NotAfter.Add(-renewBefore)) {
		return nil
	}
	pair, err := s.own.issue(s.cert, s.key, s.names, now)
	if err != nil {
		return fmt.Errorf("make a certificate in %s: %w", filepath.Dir(s.cert), err)
	}
	s.log.Info("made a certificate for the server", "names", s.names, "until", pair.Leaf.NotAfter)
	s.pair = pair
	return nil
}

// pin is the SHA-256 of the public key of the authority that clients shall trust,
// in hexadecimal: the last certificate of --tls-ca, or the server's own where no
// authority is given.
func (s *certs) pin() (string, error) {
	if s.ca == "" {
		return Pin(s.current().Leaf), nil
	}
	b, err := os.ReadFile(s.ca)
	if err != nil {
		return "", fmt.Errorf("read the CA file: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return "", fmt.Errorf("CA file %s holds no PEM certificate", s.ca)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("CA file %s: %w", s.ca, err)
	}
	return Pin(c), nil
}

// Pin is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo), in
// hexadecimal. It stays the same when the certificate is renewed with its key.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// openCA reads the authority in dir, or makes it at the first start.
func openCA(dir string, now time.Time) (*ownCA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of certificates: %w", err)
	}
	cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	_, err := os.Stat(cert)
	if errors.Is(err, fs.ErrNotExist) {
		err = makeCA(cert, key, now)
	}
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("authority in %s is damaged (%w): restore it, or delete the directory to make a new one, which every agent must be told", dir, err)
	}
	if now.After(pair.Leaf.NotAfter.Add(-certLife)) {
		return nil, fmt.Errorf("authority in %s ends on %s: delete the directory to make a new one and enrol the agents again", dir, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("authority in %s: its key cannot sign", dir)
	}
	return &ownCA{cert: pair.Leaf, key: signer}, nil
}

func makeCA(cert, key string, now time.Time) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := template("Leeward authority "+strings.ToLower(rand.Text())[:8], now, caLife)
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return err
	}
	// The key first: a certificate is only there when its key is.
	if err := writeKey(key, k); err != nil {
		return err
	}
	return writePEM(cert, der)
}

func (a *ownCA) signed(c *x509.Certificate) bool { return c.CheckSignatureFrom(a.cert) == nil }

// issue makes a certificate for names and keeps it. The authority's own goes with
// it, so that a client that knows only its pin can judge.
func (a *ownCA) issue(cert, key string, names []string, now time.Time) (*tls.Certificate, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("leeward", now, certLife)
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, k.Public(), a.key)
	if err != nil {
		return nil, err
	}
	if err := writeKey(key, k); err != nil {
		return nil, err
	}
	if err := writePEM(cert, der, a.cert.Raw); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	return &pair, err
}

func template(name string, now time.Time, life time.Duration) *x509.Certificate {
	serial := make([]byte, 15)
	_, _ = rand.Read(serial) // never fails
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name, Organization: []string{"Leeward"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
	}
}

func writeKey(file string, k *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	return trust.WriteWhole(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func writePEM(file string, ders ...[]byte) error {
	var b []byte
	for _, der := range ders {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return trust.WriteWhole(file, b, 0o644)
}

// ownNames is what the server may be called: what it listens on, what it tells
// clients, the machine's name and, if it listens everywhere, its addresses.
func ownNames(host, advertise string) []string {
	names := map[string]bool{"localhost": true, "127.0.0.1": true}
	if a, _, err := net.SplitHostPort(advertise); err == nil {
		names[a] = true
	}
	if h, err := os.Hostname(); err == nil && h != "" {
		names[h] = true
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		names[host] = true
	} else if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
				names[n.IP.String()] = true
			}
		}
	}
	delete(names, "")
	out := make([]string, 0, len(names))
	for n := range names {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func namesOf(c *x509.Certificate) []string {
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	slices.Sort(out)
	return out
}

// newest is the time of the file that was changed last.
func newest(files ...string) (t time.Time, err error) {
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return t, err
		}
		if st.ModTime().After(t) {
			t = st.ModTime()
		}
	}
	return t, nil
}
