package embed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/streams/bus"
)

// certificate makes a self-signed certificate for 127.0.0.1 that ends at end.
func certificate(t *testing.T, end time.Time) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "leeward test"},
		NotBefore: end.Add(-48 * time.Hour), NotAfter: end, IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, b []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", kder)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Cert, c.Key = certificate(t, time.Now().Add(time.Hour))
	c.CA, c.Listen = c.Cert, "0.0.0.0:-1"
	s := start(t, c)
	if !strings.HasPrefix(s.ClientURL(), "tls://127.0.0.1:") {
		t.Errorf("URL %s", s.ClientURL())
	}
	ensured(t, s) // inside the process without TLS
	b, err := bus.Connect(within(t), bus.Options{Context: s.ContextFile(Agent)})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := b.Conn.TLSConnectionState(); err != nil || !st.HandshakeComplete {
		t.Errorf("not encrypted: %v", err)
	}
	b.Close()
	other, _ := certificate(t, time.Now().Add(time.Hour))
	fails := func(o bus.Options, words ...string) {
		t.Helper()
		b, err := bus.Connect(within(t), o)
		if err == nil {
			b.Close()
			t.Fatalf("connected with %+v", o)
		}
		for _, w := range append(words, "127.0.0.1") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("lacks %q: %v", w, err)
			}
		}
	}
	fails(bus.Options{URL: s.ClientURL(), CredsFile: s.CredsFile(Agent), CAFile: other}, "cannot trust", "CA file")
	fails(bus.Options{URL: s.ClientURL(), CredsFile: s.CredsFile(Agent)}, "cannot trust", "CA file")
	plain := start(t, config(t.TempDir()))
	fails(bus.Options{URL: strings.Replace(plain.ClientURL(), "nats:", "tls:", 1), CredsFile: plain.CredsFile(Agent)}, "offers no TLS")
}

func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Cert, c.Key = certificate(t, time.Now().Add(-time.Hour))
	refused(t, c, c.Cert, "expired on", "renew")
}
