package crew

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/leeward-dr/leeward/control/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is many times what anything takes here.
const patience = 2 * time.Minute

// host is an SSH server that lets ann in, with a password or a key, and whose shell says
// what it is told to.
type host struct {
	target push.Target
	print  string
	pem    []byte // of a key that is let in
}

func signer(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return s, pem.EncodeToMemory(b)
}

func newHost(t *testing.T, says string) *host {
	t.Helper()
	own, _ := signer(t)
	user, text := signer(t)
	c := &ssh.ServerConfig{
		PasswordCallback: func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
			if string(p) != "sesame" {
				return nil, errors.New("no")
			}
			return nil, nil
		},
		PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
			if string(k.Marshal()) != string(user.PublicKey().Marshal()) {
				return nil, errors.New("no")
			}
			return nil, nil
		},
	}
	c.AddHostKey(own)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go greet(nc, c, says)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	h := &host{print: ssh.FingerprintSHA256(own.PublicKey()), pem: text}
	if h.target, err = push.ParseTarget("ann@"+l.Addr().String(), ""); err != nil {
		t.Fatal(err)
	}
	return h
}

func greet(nc net.Conn, c *ssh.ServerConfig, says string) {
	defer nc.Close()
	_, chans, reqs, err := ssh.NewServerConn(nc, c)
	if err != nil {
		return // not let in
	}
	go ssh.DiscardRequests(reqs)
	for n := range chans {
		ch, asked, err := n.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range asked {
				_ = r.Reply(r.Type == "exec", nil)
				_, _ = io.WriteString(ch, says)
				_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{0}))
				_ = ch.Close()
			}
		}()
	}
}

func (h *host) order() Order {
	return Order{Do: Uninstall, By: "ann", Hosts: []Host{{h.target, h.print}}, Password: []byte("sesame")}
}

// over waits until a round is over.
func over(t *testing.T, w *Crew, id string) *Round {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if r := w.Round(id); r != nil && r.Over() {
			return r
		}
		if time.Now().After(end) {
			t.Fatalf("the round is not over: %+v", w.Round(id))
		}
	}
}

// One host's trouble is that host's alone, each tells why, and what was given to get in is
// overwritten when the round is over.
func TestRound(t *testing.T) {
	w := New(Config{})
	defer w.Close()
	h := newHost(t, "Welcome\n") // a shell that is none
	other := newHost(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := push.ParseTarget(l.Addr().String(), "ann")
	l.Close()
	if err != nil {
		t.Fatal(err)
	}
	o := h.order()
	o.Hosts = append(o.Hosts, Host{other.target, h.print}, Host{nobody, h.print}) // another's key, and nobody there
	o.Key, o.Passphrase = []byte(h.pem), []byte("none")
	secrets := [][]byte{o.Password, o.Key, o.Passphrase}
	id, err := w.Begin(o)
	if err != nil {
		t.Fatal(err)
	}
	r := over(t, w, id)
	for i, want := range []string{push.ErrHost.Error(), push.ErrHostKey.Error(), push.ErrUnreachable.Error()} {
		v := r.Hosts[i]
		if !v.Done || !strings.Contains(v.Error, want) || len(v.Steps) == 0 || v.Steps[0].What != "signing in" {
			t.Errorf("%s: %+v, want %q", v.Host, v, want)
		}
	}
	if r.Bad() != 3 || r.Left() != 0 || r.By != "ann" {
		t.Errorf("the round is %+v", r)
	}
	// The last to know of them is the round itself, a moment after it is over.
	w.Close()
	for i, s := range secrets {
		if strings.Trim(string(s), "\x00") != "" {
			t.Errorf("secret %d is still in memory", i)
		}
	}
	if _, err := w.Begin(h.order()); err == nil {
		t.Error("a crew that was sent home goes out")
	}
}

// Who may come in by a key alone, and who not.
func TestWaysIn(t *testing.T) {
	w := New(Config{})
	defer w.Close()
	h := newHost(t, "Welcome\n")
	_, stranger := signer(t)
	for name, c := range map[string]struct {
		password string
		key      []byte
		want     error
	}{
		"password": {"sesame", nil, push.ErrHost}, "key": {"", h.pem, push.ErrHost}, "both, one is wrong": {"sesame", stranger, push.ErrHost},
		"wrong password": {"open", nil, push.ErrAuth}, "wrong key": {"", stranger, push.ErrAuth},
	} {
		o := h.order()
		o.Password, o.Key = []byte(c.password), append([]byte(nil), c.key...)
		id, err := w.Begin(o)
		if err != nil {
			t.Fatal(err)
		}
		if v := over(t, w, id).Hosts[0]; !strings.Contains(v.Error, c.want.Error()) {
			t.Errorf("%s: %s, want %v", name, v.Error, c.want)
		}
	}
	if n := len(w.Rounds()); n != 5 || w.Rounds()[0].Started.Before(w.Rounds()[4].Started) {
		t.Errorf("%d rounds are remembered", n)
	}
}

// What cannot work is refused before anybody goes anywhere, and its secrets with it.
func TestRefusedOrders(t *testing.T) {
	w := New(Config{})
	defer w.Close()
	h := &host{target: push.Target{User: "ann", Host: "web", Port: 22}, print: "SHA256:x"}
	for want, change := range map[string]func(*Order){
		"nothing is called": func(o *Order) { o.Do = "burn" },
		"was accepted":      func(o *Order) { o.Hosts = nil },
		"was not accepted":  func(o *Order) { o.Hosts[0].Fingerprint = "" },
		"one machine":       func(o *Order) { o.Machine, o.Hosts = "x", append(o.Hosts, o.Hosts[0]) },
		"https://host:port": func(o *Order) { o.Do = Install },
		"at most 64":        func(o *Order) { o.Hosts = make([]Host, MaxHosts+1) },
	} {
		o := h.order()
		change(&o)
		if _, err := w.Begin(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if string(o.Password) == "sesame" {
			t.Errorf("%s: the password is still in memory", want)
		}
	}
	o := h.order()
	o.Password = nil
	if _, err := w.Begin(o); err == nil {
		t.Error("it goes out with nothing to get in")
	}
	if len(w.Rounds()) != 0 {
		t.Error("a refused round is remembered")
	}
}

// Keys are shown as they are, without signing in.
func TestLookAt(t *testing.T) {
	h := newHost(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mute, err := push.ParseTarget(l.Addr().String(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	var seen []Seen
	for limit := 2 * time.Second; limit < patience; limit *= 4 { // until a busy machine has shown the one that speaks
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		seen = LookAt(ctx, []push.Target{h.target, mute})
		cancel()
		if seen[0].Error == "" {
			break
		}
	}
	if s := seen[0]; s.Error != "" || s.Key.Fingerprint != h.print || s.Key.Type != ssh.KeyAlgoED25519 {
		t.Errorf("%+v, want %s", s, h.print)
	}
	if s := seen[1]; s.Error == "" || s.Try == "" {
		t.Errorf("one that says nothing: %+v", s)
	}
}
