package azuritetest

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Version is the one that deploy/ci/need.sh installs.
const Version = "3.37.0"

// The account that every Azurite has. Its key is public.
const (
	Account = "devstoreaccount1"
	Key     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

const startTime = 2 * time.Minute // node on a busy machine

// Server is a running Azurite.
type Server struct{ Endpoint string }

// ConnectionString is one for the server.
func (s *Server) ConnectionString() string {
	return fmt.Sprintf("DefaultEndpointsProtocol=http;AccountName=%s;AccountKey=%s;BlobEndpoint=%s;", Account, Key, s.Endpoint)
}

// URL is the store URL of a container.
func (s *Server) URL(container string) string {
	return fmt.Sprintf("azure://%s/%s?endpoint=%s", Account, container, s.Endpoint)
}

// Start runs an Azurite until the test ends. Where there is none the test is skipped,
// or fails if it should be there.
func Start(t testing.TB) *Server {
	t.Helper()
	bin := find()
	if bin == "" {
		if os.Geteuid() == 0 || os.Getenv("CI") == "true" {
			t.Fatalf("there is no Azurite %s: run deploy/ci/need.sh test", Version)
		}
		t.Skipf("needs Azurite %s: run deploy/ci/need.sh test", Version)
	}
	for try := 0; ; try++ {
		s, err := start(t, bin)
		if err == nil {
			return s
		}
		if try == 2 {
			t.Fatal(err)
		}
		t.Log(err) // another process may have taken the port
	}
}

func find() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = ""
	}
	for _, name := range []string{
		os.Getenv("LEEWARD_AZURITE"),
		filepath.Join(cache, "leeward", "azurite-"+Version, "node_modules", ".bin", "azurite-blob"),
	} {
		if _, err := os.Stat(name); name != "" && err == nil {
			return name
		}
	}
	return ""
}

func start(t testing.TB, bin string) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	c := exec.Command(bin, "--blobPort", fmt.Sprint(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent")
	c.Dir, c.Stdout, c.Stderr = dir, log, log
	dieWithUs(c)
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start Azurite: %w", err)
	}
	gone := make(chan struct{})
	go func() { _ = c.Wait(); log.Close(); close(gone) }()
	stop := func() { _ = c.Process.Kill(); <-gone }
	at := fmt.Sprintf("http://127.0.0.1:%d", port)
	for deadline := time.Now().Add(startTime); ; {
		if r, err := http.Get(at + "/"); err == nil {
			r.Body.Close()
			break
		}
		select {
		case <-gone:
			said, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("start Azurite: it ended: %.500s", said)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			stop()
			return nil, fmt.Errorf("start Azurite: no answer after %v", startTime)
		}
	}
	t.Cleanup(stop)
	return &Server{Endpoint: at + "/" + Account}, nil
}
