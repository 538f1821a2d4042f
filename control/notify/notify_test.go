package notify

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/health"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func message() *Message {
	return &Message{Time: noon, Level: health.Critical, Code: "rpo-exceeded", Machine: "db", Cause: "the newest point is 3h old — über alt\r\nBcc: x@evil", Remedy: "see the agent"}
}

func TestWebhook(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := make(chan Message, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m Message
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || r.Method != "POST" || r.Header.Get("Authorization") != "Bearer s3cret" {
			t.Errorf("%s %v, %v", r.Method, r.Header, err)
		}
		got <- m
	}))
	defer srv.Close()
	no := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	defer no.Close()
	c := &Config{Webhooks: []Webhook{{URL: srv.URL + "/secret-path", TokenFile: token}, {URL: no.URL + "/secret-path"}, {URL: "http://127.0.0.1:1/secret-path"}, {URL: srv.URL, TokenFile: "/nowhere"}}}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	r := Send(t.Context(), c, message())
	if len(r.Sent) != 1 || len(r.Failed) != 3 || strings.Contains(fmt.Sprint(r), "secret-path") {
		t.Errorf("report %+v", r)
	}
	if m := <-got; m.Machine != "db" || m.Schema != "leeward.notification.v1" || m.Level != health.Critical {
		t.Errorf("received %+v", m)
	}
}

// mailServer takes one mail over real SMTP and hands it out.
func mailServer(t *testing.T, refuse string) (addr string, got chan string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	got = make(chan string, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
		r := bufio.NewReader(conn)
		say := func(s string) { fmt.Fprintf(conn, "%s\r\n", s) }
		say("220 here")
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			switch verb := strings.ToUpper(strings.Fields(line + " x")[0]); {
			case refuse != "" && strings.Contains(line, refuse):
				say("550 not here")
			case verb == "EHLO":
				say("250-here")
				say("250 8BITMIME")
			case verb == "DATA":
				say("354 go on")
				var b strings.Builder
				for {
					line, err := r.ReadString('\n')
					if err != nil || line == ".\r\n" {
						break
					}
					b.WriteString(strings.TrimPrefix(line, "."))
				}
				got <- b.String()
				say("250 taken")
			case verb == "QUIT":
				say("221 bye")
				return
			default:
				say("250 ok")
			}
		}
	}()
	return ln.Addr().String(), got
}

func TestMail(t *testing.T) {
	addr, got := mailServer(t, "")
	c := &Config{Mails: []Mail{{Server: addr, From: "leeward@site.example", To: []string{"ops@site.example", "boss@site.example"}}}}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if r := Send(t.Context(), c, message()); len(r.Sent) != 1 {
		t.Fatalf("report %+v", r)
	}
	m, err := mail.ReadMessage(strings.NewReader(<-got))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || !strings.HasPrefix(subject, "CRITICAL db: the newest point is 3h old — über alt") || m.Header.Get("Bcc") != "" {
		t.Errorf("subject %q, %v, headers %v", subject, err, m.Header)
	}
	body, err := io.ReadAll(m.Body)
	if err != nil || !strings.Contains(string(body), "try: see the agent") {
		t.Errorf("body %s, %v", body, err)
	}
	addr, _ = mailServer(t, "boss@")
	c.Mails[0].Server = addr
	if r := Send(t.Context(), c, message()); len(r.Failed) != 1 || !strings.Contains(r.Failed[0], "boss@site.example") {
		t.Errorf("a refused receiver: %+v", r)
	}
	pw := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(pw, []byte("geheim"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr, _ = mailServer(t, "")
	c.Mails[0].Server, c.Mails[0].User, c.Mails[0].PasswordFile = addr, "u", pw
	if r := Send(t.Context(), c, message()); len(r.Failed) != 1 || !strings.Contains(r.Failed[0], "in the clear") {
		t.Errorf("a password without TLS: %+v", r)
	}
}

func TestConfigRefusals(t *testing.T) {
	for want, c := range map[string]Config{
		"level":        {Level: "all"},
		"webhook url":  {Webhooks: []Webhook{{URL: "ftp://x"}}},
		"mail server":  {Mails: []Mail{{Server: "host", From: "a@b", To: []string{"a@b"}}}},
		"no receivers": {Mails: []Mail{{Server: "h:25", From: "a@b"}}},
		"mail address": {Mails: []Mail{{Server: "h:25", From: "a@b", To: []string{"a@b\r\nDATA"}}}},
		"belong":       {Mails: []Mail{{Server: "h:25", From: "a@b", To: []string{"a@b"}, User: "u"}}},
		"at most":      {Webhooks: make([]Webhook, 33)},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}

func TestChanges(t *testing.T) {
	known := Known{}
	issue := func(l health.Level) []health.Issue {
		return []health.Issue{{Code: "rpo-exceeded", Machine: "db", Level: l, Cause: "old"}}
	}
	at := noon
	for i, c := range []struct {
		pass   time.Duration
		issues []health.Issue
		want   string
	}{
		{0, nil, ""},
		{time.Second, issue(health.Warning), "warning"},
		{time.Minute, issue(health.Warning), ""},
		{time.Second, issue(health.Critical), "critical"},
		{time.Second, issue(health.Warning), ""}, // better, but not over
		{time.Second, nil, ""},
		{30 * time.Second, issue(health.Warning), ""}, // it comes and goes
		{time.Second, nil, ""},
		{59 * time.Second, nil, ""},
		{time.Second, nil, "healthy"},
		{time.Hour, nil, ""},
		{time.Second, issue(health.Warning), "warning"},
	} {
		at = at.Add(c.pass)
		var got []string
		for _, m := range Changes(at, known, c.issues, "") {
			got = append(got, string(m.Level))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("step %d: told %v, want %q", i, got, c.want)
		}
	}
	if m := Changes(noon, Known{}, issue(health.Warning), health.Critical); len(m) != 0 {
		t.Errorf("below the level: %+v", m)
	}
}
