package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

const (
	enrolTime = 45 * time.Second
	maxGrant  = 256 << 10
	maxToken  = 4 << 10
)

type enrolFlags struct{ server, tokenFile, pin, ca, dir string }

func enrolCommand() *cobra.Command {
	f := &enrolFlags{}
	c := &cobra.Command{
		Use:   "enrol --server https://HOST[:PORT] --token-file FILE",
		Short: "Get a user of the bus for this machine, with a one-time token",
		Long: "Get a user of the bus for this machine, with the one-time token that `leeward token new` printed. The key is\n" +
			"made here and its secret half stays here. Afterwards `leeward-agent run` finds what this has written.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), c.InOrStdin(), c.OutOrStdout()) },
	}
	s := c.Flags()
	s.StringVar(&f.server, "server", "", "`url` of the management port")
	s.StringVar(&f.tokenFile, "token-file", "", "`file` with the token, - for standard input")
	s.StringVar(&f.pin, "ca-pin", "", "SHA-256 of the public key of the authority to trust, as `leeward token new` prints it")
	s.StringVar(&f.ca, "ca", "", "`file` with certificates to trust instead of a pin; with neither, those of this system")
	s.StringVar(&f.dir, "config-dir", configDir(), "`directory` for what this writes")
	return c
}

// configDir is where enrol writes and run looks.
func configDir() string {
	if os.Geteuid() == 0 {
		return "/etc/leeward"
	}
	if d, err := os.UserConfigDir(); err == nil {
		return filepath.Join(d, "leeward")
	}
	return ""
}

// grant is what control answers.
type grant struct {
	Machine string   `json:"machine"`
	Groups  []string `json:"groups"`
	JWT     string   `json:"jwt"`
	URL     string   `json:"url"`
	CA      string   `json:"ca"`
}

func (f *enrolFlags) run(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, enrolTime)
	defer cancel()
	client, at, err := f.client()
	if err != nil {
		return usage{err}
	}
	if f.tokenFile == "" || f.dir == "" {
		return usage{errors.New("name the token's file with --token-file, and a directory with --config-dir")}
	}
	// Before the token is used up: there must be a place for what it brings.
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w: choose another with --config-dir", f.dir, err)
	}
	if err := writable(f.dir); err != nil {
		return err
	}
	token, err := readToken(f.tokenFile, in)
	if err != nil {
		return err
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	defer key.Wipe()
	public, err := key.PublicKey()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	g, err := ask(ctx, client, at, token, public)
	if err != nil {
		return err
	}
	file, err := f.keep(g, key, public)
	if err != nil {
		return fmt.Errorf("%w; the token is used up: ask for a new one", err)
	}
	fmt.Fprintf(out, "enrolled as machine %s, key %s\nconnection file %s\nnow: leeward-agent run --machine %s --disk /dev/sdX\n", g.Machine, public, file, g.Machine)
	return nil
}

func readToken(file string, in io.Reader) (string, error) {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxToken))
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if !strings.HasPrefix(t, "lw_") || strings.ContainsAny(t, " \n") {
		return "", fmt.Errorf("%s holds no token: it is one word that starts with lw_", file)
	}
	return t, nil
}

// client makes an HTTP client that believes the pinned authority, or the given, or
// the system's. Without TLS it speaks to this machine only.
func (f *enrolFlags) client() (*http.Client, *url.URL, error) {
	u, err := url.Parse(f.server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, nil, fmt.Errorf("--server is %q: write https://host or https://host:port", f.server)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, nil, fmt.Errorf("--server is %s: the token would cross the network readable to all; use https", f.server)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case f.pin != "":
		pin, err := hex.DecodeString(strings.TrimPrefix(strings.ToLower(f.pin), "sha256:"))
		if err != nil || len(pin) != sha256.Size {
			return nil, nil, fmt.Errorf("--ca-pin is no SHA-256: it has 64 hexadecimal digits")
		}
		// The chain is verified below, against the one authority that is pinned.
		t.InsecureSkipVerify = true
		t.VerifyConnection = func(s tls.ConnectionState) error { return pinned(s, pin) }
	case f.ca != "":
		b, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, nil, fmt.Errorf("read --ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(b) {
			return nil, nil, fmt.Errorf("--ca %s holds no PEM certificate", f.ca)
		}
	}
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: t, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the server sends us elsewhere; name the right one with --server")
		},
	}, u.JoinPath("/v1/enrol"), nil
}

// pinned reports why the server is not the one that was meant: no certificate it
// shows has the pinned key, or that one did not sign the server's for its name.
func pinned(s tls.ConnectionState, pin []byte) error {
	for i, c := range s.PeerCertificates {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		if !bytes.Equal(sum[:], pin) {
			continue
		}
		o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: s.ServerName}
		o.Roots.AddCert(c)
		for _, between := range s.PeerCertificates[1:] {
			o.Intermediates.AddCert(between)
		}
		if i == 0 { // the server's own key is pinned: there is no authority to ask
			o.Roots.AddCert(s.PeerCertificates[0])
		}
		_, err := s.PeerCertificates[0].Verify(o)
		return err
	}
	return errors.New("the server's certificate is not from the pinned authority: is --server right, and --ca-pin from this server's `leeward token new`?")
}

// ask brings the token and gets the grant.
func ask(ctx context.Context, client *http.Client, at *url.URL, token, public string) (*grant, error) {
	body, err := json.Marshal(map[string]string{"token": token, "public_key": public})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	a, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", bus.ErrUnreachable, err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, maxGrant))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", at.Host, err)
	}
	if a.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s refuses (%s): %.300s", at.Host, a.Status, strings.TrimSpace(string(b)))
	}
	var g grant
	if err := json.Unmarshal(b, &g); err != nil {
		return nil, fmt.Errorf("the answer of %s is unreadable: %w", at.Host, err)
	}
	return &g, g.check()
}

// check refuses what would not work, or would go into files as something else.
func (g *grant) check() error {
	if err := streams.ValidName("machine", g.Machine); err != nil {
		return fmt.Errorf("the server's answer is wrong: %w", err)
	}
	foreign := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}
	if strings.Count(g.JWT, ".") != 2 || strings.ContainsFunc(g.JWT, foreign) {
		return errors.New("the server's answer holds no user")
	}
	if u, err := url.Parse(g.URL); err != nil || u.Host == "" {
		return fmt.Errorf("the server's answer names no address of the bus: %q", g.URL)
	}
	return nil
}

// keep writes the user, the authority and the connection file.
func (f *enrolFlags) keep(g *grant, key nkeys.KeyPair, public string) (string, error) {
	seed, err := key.Seed()
	if err != nil {
		return "", fmt.Errorf("keep the key: %w", err)
	}
	creds := fmt.Appendf(nil, "-----BEGIN NATS USER JWT-----\n%s\n------END NATS USER JWT------\n\n"+
		"The key below is secret. Whoever has it is this machine's agent.\n\n"+
		"-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n", g.JWT, seed)
	defer clear(creds)
	path := func(name string) string {
		p := filepath.Join(f.dir, name)
		if abs, err := filepath.Abs(p); err == nil {
			return abs
		}
		return p
	}
	c := map[string]string{
		"description": "Leeward agent of " + g.Machine, "url": g.URL, "creds": path("agent.creds"),
		"inbox_prefix": bus.InboxPrefix(public), "leeward_machine": g.Machine,
	}
	if g.CA != "" {
		c["ca"] = path("agent-ca.pem")
		if err := replace(c["ca"], []byte(g.CA), 0o644); err != nil {
			return "", err
		}
	}
	if err := replace(c["creds"], creds, 0o600); err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return "", err
	}
	return path("agent.json"), replace(path("agent.json"), append(b, '\n'), 0o600)
}

// replace writes a file whole or not at all.
func replace(file string, b []byte, mode os.FileMode) error {
	t, err := os.CreateTemp(filepath.Dir(file), ".leeward-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(t.Name()) // gone after the rename
	_, err = t.Write(b)
	if err = errors.Join(err, t.Chmod(mode), t.Sync(), t.Close()); err == nil {
		err = os.Rename(t.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func writable(dir string) error {
	t, err := os.CreateTemp(dir, ".leeward-*")
	if err != nil {
		return fmt.Errorf("%s is not writable: %w: run as root, or choose another with --config-dir", dir, err)
	}
	return errors.Join(t.Close(), os.Remove(t.Name()))
}

// enrolledAs is the machine that a connection file was made for; "" if it does not
// say.
func enrolledAs(context string) string {
	b, err := os.ReadFile(context)
	if err != nil {
		return ""
	}
	var c struct {
		Machine string `json:"leeward_machine"`
	}
	if json.Unmarshal(b, &c) != nil {
		return ""
	}
	return c.Machine
}
