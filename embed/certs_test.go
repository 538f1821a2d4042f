package embed

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/trust"
)

// shown is the certificate that a client is shown now.
func shown(t *testing.T, s *Server) *tls.Certificate {
	t.Helper()
	s.certs.mu.Lock()
	s.certs.looked = time.Time{}
	s.certs.mu.Unlock()
	return s.certs.current()
}

// Where other machines can reach it, a server without certificate makes its own,
// and keeps its authority over a restart.
func TestOwnCertificate(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Listen = "0.0.0.0:-1"
	s := start(t, c)
	if !strings.HasPrefix(s.ClientURL(), "tls://127.0.0.1:") {
		t.Fatalf("URL %s", s.ClientURL())
	}
	b, err := bus.Connect(within(t), bus.Options{Context: s.ContextFile(Tap)})
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.Conn.TLSConnectionState()
	if err != nil {
		t.Fatal(err)
	}
	pin, err := s.CAPin()
	if err != nil || len(pin) != 64 {
		t.Fatalf("pin %q: %v", pin, err)
	}
	if n := len(st.PeerCertificates); n != 2 || Pin(st.PeerCertificates[1]) != pin {
		t.Errorf("%d certificates shown, the last must be the pinned one", n)
	}
	b.Close()
	if b, err := bus.Connect(within(t), bus.Options{URL: s.ClientURL(), CredsFile: s.CredsFile(Tap)}); err == nil {
		b.Close()
		t.Error("connected without the CA file")
	}
	for file, mode := range map[string]os.FileMode{"ca.key": 0o600, "server.key": 0o600, "ca.pem": 0o644} {
		if st, err := os.Stat(filepath.Join(c.Dir, "tls", file)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, st, err)
		}
	}
	serial := shown(t, s).Leaf.SerialNumber
	stop(t, s)
	s = start(t, c)
	if again, err := s.CAPin(); err != nil || again != pin {
		t.Errorf("pin after a restart: %q, %v", again, err)
	}
	if shown(t, s).Leaf.SerialNumber.Cmp(serial) != 0 {
		t.Error("a restart made another certificate")
	}
}

// Our own certificate is made anew before it ends; clients notice nothing.
func TestRenewOwn(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Listen = "0.0.0.0:-1"
	s := start(t, c)
	first := shown(t, s).Leaf
	later := time.Now().Add(certLife - renewBefore + time.Minute)
	s.certs.mu.Lock()
	s.certs.now = func() time.Time { return later }
	s.certs.mu.Unlock()
	second := shown(t, s).Leaf
	if first.SerialNumber.Cmp(second.SerialNumber) == 0 || !second.NotAfter.After(first.NotAfter) {
		t.Fatalf("until %v, then until %v", first.NotAfter, second.NotAfter)
	}
	if _, err := second.Verify(verifyWith(t, s, later)); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
	if again := shown(t, s).Leaf; again.SerialNumber.Cmp(second.SerialNumber) != 0 {
		t.Error("made another one at once")
	}
	// An address that the machine got meanwhile gets into the certificate at a restart.
	stop(t, s)
	c.Advertise = "dr.example.com:9443"
	s = start(t, c)
	if err := shown(t, s).Leaf.VerifyHostname("dr.example.com"); err != nil {
		t.Error(err)
	}
}

// Files that were given are read again when they change; a bad one is not shown.
func TestReplaceGiven(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Cert, c.Key = certificate(t, time.Now().Add(time.Hour))
	c.CA, c.Listen = c.Cert, "0.0.0.0:-1"
	s := start(t, c)
	first := shown(t, s).Leaf
	put := func(cert, key string) {
		t.Helper()
		for from, to := range map[string]string{cert: c.Cert, key: c.Key} {
			b, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := trust.WriteWhole(to, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(certificate(t, time.Now().Add(-time.Hour)))
	if !shown(t, s).Leaf.Equal(first) {
		t.Error("an expired certificate is shown")
	}
	put(certificate(t, time.Now().Add(2*time.Hour)))
	if shown(t, s).Leaf.Equal(first) {
		t.Error("the new certificate is not shown")
	}
	b, err := bus.Connect(within(t), bus.Options{Context: s.ContextFile(Agent)})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if pin, err := s.CAPin(); err != nil || pin != Pin(shown(t, s).Leaf) {
		t.Errorf("pin %s: %v", pin, err)
	}
}

func verifyWith(t *testing.T, s *Server, at time.Time) x509.VerifyOptions {
	t.Helper()
	b, err := os.ReadFile(s.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatal("no certificate in the CA file")
	}
	return x509.VerifyOptions{Roots: pool, CurrentTime: at, DNSName: "localhost"}
}

func TestDamagedCA(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Listen = "0.0.0.0:-1"
	stop(t, start(t, c))
	if err := os.Remove(filepath.Join(c.Dir, "tls", "ca.key")); err != nil {
		t.Fatal(err)
	}
	refused(t, c, "authority", "damaged", "restore it")
}
