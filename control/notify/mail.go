package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"os"
	"strings"
	"time"
)

func secret(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read a secret: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// send delivers m to the mail server. net/smtp knows no context: the connection's
// deadline bounds every word.
func (k *Mail) send(ctx context.Context, m *Message) (err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", k.Server)
	if err != nil {
		return err
	}
	defer conn.Close()
	if at, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(at); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	host, _, err := net.SplitHostPort(k.Server)
	if err != nil {
		return err
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return err
	}
	secure := false
	if ok, _ := c.Extension("STARTTLS"); ok {
		if err := c.StartTLS(&tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}); err != nil {
			return err
		}
		secure = true
	}
	if k.User != "" {
		if !secure {
			return errors.New("the server has no STARTTLS: a password is not sent in the clear")
		}
		password, err := secret(k.PasswordFile)
		if err != nil {
			return err
		}
		if err := c.Auth(smtp.PlainAuth("", k.User, password, host)); err != nil {
			return err
		}
	}
	if err := c.Mail(k.From); err != nil {
		return err
	}
	for _, to := range k.To {
		if err := c.Rcpt(to); err != nil {
			return fmt.Errorf("receiver %s: %w", to, err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(k.compose(m)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.Quit()
}

func (k *Mail) compose(m *Message) []byte {
	var b strings.Builder
	for _, h := range [][2]string{
		{"From", k.From}, {"To", strings.Join(k.To, ", ")}, {"Subject", mime.QEncoding.Encode("utf-8", m.Subject())},
		{"Date", m.Time.UTC().Format(time.RFC1123Z)}, {"Auto-Submitted", "auto-generated"}, {"X-Leeward-Code", m.Code},
		{"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
	} {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = q.Write([]byte(strings.ReplaceAll(m.Text(), "\n", "\r\n"))) // a Builder takes everything
	_ = q.Close()
	return []byte(b.String())
}
