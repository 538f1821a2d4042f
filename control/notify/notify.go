package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/control/health"
)

// Config says where notifications go.
type Config struct {
	Level    health.Level `json:"level" yaml:"level"` // from it on: warning or critical; default warning
	Webhooks []Webhook    `json:"webhooks,omitempty" yaml:"webhooks,omitempty"`
	Mails    []Mail       `json:"mails,omitempty" yaml:"mails,omitempty"`
}

// Webhook is an address that gets a Message as JSON by POST.
type Webhook struct {
	URL string `json:"url" yaml:"url"`
	// TokenFile holds what is sent as bearer token, on the server of control.
	TokenFile string `json:"token_file,omitempty" yaml:"token_file,omitempty"`
}

// Mail is a mail server and who gets mails. STARTTLS is used if the server has it,
// and required for a password.
type Mail struct {
	Server       string   `json:"server" yaml:"server"` // host:port
	From         string   `json:"from" yaml:"from"`
	To           []string `json:"to" yaml:"to"`
	User         string   `json:"user,omitempty" yaml:"user,omitempty"`
	PasswordFile string   `json:"password_file,omitempty" yaml:"password_file,omitempty"`
}

// maxTargets bounds what one notification costs.
const maxTargets = 32

// Validate names the field that cannot work.
func (c *Config) Validate() error {
	if !slices.Contains([]health.Level{"", health.Warning, health.Critical}, c.Level) {
		return fmt.Errorf("level is %q: use warning or critical", c.Level)
	}
	if len(c.Webhooks)+len(c.Mails) > maxTargets {
		return fmt.Errorf("%d targets, at most %d", len(c.Webhooks)+len(c.Mails), maxTargets)
	}
	for _, w := range c.Webhooks {
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("webhook url is %q: write http://… or https://…", w.URL)
		}
	}
	for _, m := range c.Mails {
		if host, port, ok := strings.Cut(m.Server, ":"); !ok || host == "" || port == "" {
			return fmt.Errorf("mail server is %q: write host:port", m.Server)
		}
		if len(m.To) == 0 {
			return fmt.Errorf("mail by %s has no receivers in to", m.Server)
		}
		for _, a := range append(slices.Clone(m.To), m.From) {
			if p, err := mail.ParseAddress(a); err != nil || p.Address != a {
				return fmt.Errorf("%q is no mail address: write name@domain", a)
			}
		}
		if (m.User == "") != (m.PasswordFile == "") {
			return fmt.Errorf("mail by %s: user and password_file belong together", m.Server)
		}
	}
	return nil
}

// Message is one notification. Schema "leeward.notification.v1".
type Message struct {
	Schema  string       `json:"schema"`
	Time    time.Time    `json:"time"`
	Level   health.Level `json:"level"` // healthy: it is over
	Code    string       `json:"code"`
	Machine string       `json:"machine,omitempty"`
	Disk    string       `json:"disk,omitempty"`
	Cause   string       `json:"cause"`
	Remedy  string       `json:"remedy,omitempty"`
}

// Subject is the message in one line.
func (m *Message) Subject() string {
	s := strings.ToUpper(string(m.Level)) + ": " + m.Cause
	if m.Machine != "" {
		s = strings.ToUpper(string(m.Level)) + " " + m.Machine + ": " + m.Cause
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f { // a header has one line
			return ' '
		}
		return r
	}, s)
}

// Text is the message for people.
func (m *Message) Text() string {
	var b strings.Builder
	fmt.Fprintln(&b, m.Cause)
	if m.Remedy != "" {
		fmt.Fprintf(&b, "\ntry: %s\n", m.Remedy)
	}
	fmt.Fprintf(&b, "\n%s, %s, machine %s\n", m.Time.UTC().Format(time.RFC3339), m.Code, m.Machine)
	return b.String()
}

// Report says what became of a message, for each target.
type Report struct {
	Sent   []string `json:"sent"`
	Failed []string `json:"failed"` // target and reason
}

// sendTime bounds one target.
const sendTime = 20 * time.Second

// Send sends a message to every target, all at once.
func Send(ctx context.Context, c *Config, m *Message) *Report {
	m.Schema = "leeward.notification.v1"
	r := &Report{Sent: []string{}, Failed: []string{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	try := func(name string, send func(context.Context) error) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, sendTime)
			defer cancel()
			err := send(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.Failed = append(r.Failed, fmt.Sprintf("%s: %v", name, err))
				return
			}
			r.Sent = append(r.Sent, name)
		})
	}
	for _, w := range c.Webhooks {
		try(w.name(), func(ctx context.Context) error { return w.send(ctx, m) })
	}
	for _, k := range c.Mails {
		try("mail by "+k.Server, func(ctx context.Context) error { return k.send(ctx, m) })
	}
	wg.Wait()
	slices.Sort(r.Sent)
	slices.Sort(r.Failed)
	return r
}

// name is the webhook without what may be secret in its path.
func (w *Webhook) name() string {
	u, err := url.Parse(w.URL)
	if err != nil {
		return "webhook"
	}
	return "webhook " + u.Scheme + "://" + u.Host
}

func (w *Webhook) send(ctx context.Context, m *Message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if w.TokenFile != "" {
		token, err := secret(w.TokenFile)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the address, which may hold a secret
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}
