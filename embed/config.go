package embed

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"time"
)

// Config says where the server lives and listens.
type Config struct {
	Dir string // created if missing, 0700
	// Listen is host:port. Port -1 takes any free one. Where other machines can
	// reach it, it speaks TLS: with Cert and Key, or with what the server makes
	// itself below Dir/tls.
	Listen string
	// Advertise is the host:port that clients are told, if it is not Listen's: a
	// name that the certificate is for.
	Advertise string
	// MaxStore bounds the streams together, in bytes; 0 takes what the disk has. It
	// is lowered to leave room on the disk.
	MaxStore int64
	Cert     string // PEM certificate of the server; with Key turns TLS on
	Key      string
	CA       string // PEM certificates that clients need to trust Cert; goes into the contexts
	// LameDuck is how long Stop gives clients to leave before it cuts them off; 0
	// cuts at once, they reconnect by themselves.
	LameDuck time.Duration
	Log      *slog.Logger // nil: silent
	// Refused, if set, is told what the server refuses its users. It may take its
	// time; repeats are counted meanwhile.
	Refused func(Refusal)
}

// Default listens on this machine only, on the usual port. Dir is not set.
func Default() Config { return Config{Listen: "127.0.0.1:4222"} }

// Validate names what cannot work and why.
func (c Config) Validate() error {
	if c.Dir == "" {
		return errors.New("--dir is empty: name a directory for streams and keys")
	}
	if _, _, err := c.listen(); err != nil {
		return err
	}
	if c.MaxStore < 0 || c.LameDuck < 0 {
		return fmt.Errorf("nats.max_store is %d and nats.lame_duck %v: neither may be negative", c.MaxStore, c.LameDuck)
	}
	if (c.Cert == "") != (c.Key == "") {
		return errors.New("--tls-cert and --tls-key belong together: set both or neither")
	}
	if c.CA != "" && c.Cert == "" {
		return errors.New("--tls-ca is set without --tls-cert: it says what clients trust, but there is nothing to trust")
	}
	if c.Advertise != "" {
		if _, _, err := net.SplitHostPort(c.Advertise); err != nil {
			return fmt.Errorf("--advertise is %q: write host:port", c.Advertise)
		}
	}
	return nil
}

func (c Config) listen() (host string, port int, err error) {
	host, p, err := net.SplitHostPort(c.Listen)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < -1 || port > 65535 || port == 0 {
		return "", 0, fmt.Errorf("--listen is %q: write host:port, port -1 for any free one", c.Listen)
	}
	return host, port, nil
}

// loopback reports whether only this machine can reach host. An empty host is
// every address there is.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// absolute makes every path independent of the working directory, because they
// are written into contexts.
func (c Config) absolute() (Config, error) {
	for _, p := range []*string{&c.Dir, &c.Cert, &c.Key, &c.CA} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, fmt.Errorf("path %s: %w", *p, err)
		}
		*p = abs
	}
	return c, nil
}
