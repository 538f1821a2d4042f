package push

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// ErrHost means that a host is not what an agent can be installed on; the text says why.
var ErrHost = errors.New("this host will not do")

// Host is one that we are signed in to. One goroutine uses it at a time.
type Host struct {
	Target   Target
	client   *ssh.Client
	local    net.Addr
	password []byte
	sudo     string // what makes root of us: "", sudo, or sudo with a password
}

// Close signs out.
func (h *Host) Close() error { return h.client.Close() }

// LocalIP is our own address as the host sees it, without translation in between.
func (h *Host) LocalIP() string {
	if a, ok := h.local.(*net.TCPAddr); ok {
		return a.IP.String()
	}
	return ""
}

// failed is a command that ended with an error, and what it said.
type failed struct {
	code int
	said string
}

func (f *failed) Error() string {
	if f.said == "" {
		return fmt.Sprintf("it ended with %d and said nothing", f.code)
	}
	return f.said
}

// maxSaid bounds what is kept of a command's output, in bytes.
const maxSaid = 1 << 20

// quote makes one word of s for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// run has a POSIX shell on the host run a script, whose $1… are args. What it prints is
// returned; what it says on standard error is the error's text when it fails. The script
// and args can be seen in the host's list of processes: secrets go to stdin.
func (h *Host) run(ctx context.Context, root bool, stdin []byte, script string, args ...string) (string, error) {
	words := []string{"sh", "-c", quote(script), "leeward"}
	for _, a := range args {
		words = append(words, quote(a))
	}
	cmd := strings.Join(words, " ")
	if root && h.sudo != "" {
		cmd = h.sudo + " " + cmd
		if h.sudo == sudoWithPassword {
			stdin = append(append(bytes.Clone(h.password), '\n'), stdin...)
			defer clear(stdin)
		}
	}
	s, err := h.client.NewSession()
	if err != nil {
		return "", fmt.Errorf("open a session: %w", err)
	}
	defer s.Close()
	var out, said bounded
	s.Stdin, s.Stdout, s.Stderr = bytes.NewReader(stdin), &out, &said
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	err = s.Run(cmd)
	if ctx.Err() != nil {
		return "", fmt.Errorf("the host did not get ready in time: %w", ctx.Err())
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return out.String(), &failed{exit.ExitStatus(), strings.TrimSpace(said.String())}
	}
	return out.String(), err
}

// bounded keeps the first maxSaid bytes.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxSaid - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

const (
	sudoAlone        = "sudo -n --"
	sudoWithPassword = "sudo -S -k -p '' --"
)

// factsScript prints what has to be known before anything is touched, key=value.
const factsScript = `
say() { printf '%s=%s\n' "$1" "$2"; }
say system "$(uname -s)"
say arch "$(uname -m)"
say uid "$(id -u)"
say name "$(uname -n)"
[ -d /run/systemd/system ] && say systemd yes
command -v sudo >/dev/null 2>&1 && say sudo yes
sudo -n true >/dev/null 2>&1 && say nopasswd yes
say room "$(df -Pk /usr/local | awk 'NR==2 {print $4}')"
`

// agentScript prints what there is of an agent. It runs as root: only root may ask systemd
// everywhere, and read what belongs to the agent.
const agentScript = `
say() { printf '%s=%s\n' "$1" "$2"; }
if [ -e /usr/bin/leeward-agent ]; then say package "$(dpkg-query -S /usr/bin/leeward-agent 2>/dev/null || rpm -qf /usr/bin/leeward-agent 2>/dev/null || echo /usr/bin/leeward-agent)"; fi
if [ -x /usr/local/bin/leeward-agent ]; then say version "$(/usr/local/bin/leeward-agent version 2>/dev/null)"; fi
systemctl is-active --quiet leeward-agent.service 2>/dev/null && say active yes
if [ -e /etc/leeward/agent.creds ]; then say enrolled yes; fi
true`

// Facts are what a host says of itself.
type Facts struct {
	Arch      string // as Go calls it
	Name      string // its host name, up to the first dot
	Package   string // that has an agent of its own
	Version   string // of the agent that was pushed before
	Active    bool   // its unit runs
	Enrolled  bool
	RoomBytes int64 // where the binary goes
}

// goArch is Go's name for what uname -m says.
var goArch = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}

// pairs reads lines of key=value; others are the host's own talk.
func pairs(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "="); ok {
			m[k] = v
		}
	}
	return m
}

// parseFacts reads the output of factsScript, and decides how to become root.
func parseFacts(text string, password bool) (f Facts, sudo string, err error) {
	m := pairs(text)
	no := func(format string, a ...any) (Facts, string, error) {
		return Facts{}, "", fmt.Errorf("%w: %s", ErrHost, fmt.Sprintf(format, a...))
	}
	if m["uid"] == "" || m["system"] == "" {
		return no("its shell answers %.100q: is the user's shell a POSIX shell?", text)
	}
	if m["system"] != "Linux" {
		return no("it runs %s; the agent runs on Linux", m["system"])
	}
	var ok bool
	if f.Arch, ok = goArch[m["arch"]]; !ok {
		return no("its processor is %s; there are agents for x86_64 and aarch64", m["arch"])
	}
	if m["systemd"] != "yes" {
		return no("systemd does not run there: install by hand (docs/ops/agent.md)")
	}
	switch {
	case m["uid"] == "0":
	case m["nopasswd"] == "yes":
		sudo = sudoAlone
	case m["sudo"] == "yes" && password:
		sudo = sudoWithPassword
	case m["sudo"] == "yes":
		return no("sudo wants a password there: give it with --ask-password or --password-file")
	default:
		return no("it has no sudo and the user is not root")
	}
	f.Name, _, _ = strings.Cut(m["name"], ".")
	if kib, err := strconv.ParseInt(m["room"], 10, 64); err == nil {
		f.RoomBytes = kib << 10
	}
	return f, sudo, nil
}

// Look asks the host what it is, and finds out how to become root on it.
func (h *Host) Look(ctx context.Context) (Facts, error) {
	out, err := h.run(ctx, false, nil, factsScript)
	var f *failed
	if err != nil && !errors.As(err, &f) {
		return Facts{}, fmt.Errorf("look at the host: %w", err)
	}
	facts, sudo, err := parseFacts(out, h.password != nil)
	if err != nil {
		return Facts{}, err
	}
	h.sudo = sudo
	if uid, err := h.run(ctx, true, nil, "id -u"); err != nil || strings.TrimSpace(uid) != "0" {
		return Facts{}, fmt.Errorf("%w: sudo does not make us root: %s", ErrHost, or(err, uid))
	}
	if out, err = h.run(ctx, true, nil, agentScript); err != nil {
		return Facts{}, fmt.Errorf("look for an agent: %w", err)
	}
	m := pairs(out)
	facts.Package, facts.Version = m["package"], strings.TrimPrefix(m["version"], "leeward-agent ")
	facts.Active, facts.Enrolled = m["active"] == "yes", m["enrolled"] == "yes"
	return facts, nil
}

func or(err error, said string) string {
	if err != nil {
		return err.Error()
	}
	return "we are " + strings.TrimSpace(said)
}

// send writes a file by SFTP into a directory of its own that only the user can enter,
// and compares its SHA-256 there. drop removes it.
func (h *Host) send(ctx context.Context, file string) (remote string, drop func(), err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	dir, err := h.run(ctx, false, nil, `umask 077; mktemp -d "${TMPDIR:-/tmp}/leeward-XXXXXXXX"`)
	if err != nil {
		return "", nil, fmt.Errorf("make a directory for what is sent: %w", err)
	}
	dir = strings.TrimSpace(dir)
	drop = func() {
		_, _ = h.run(context.WithoutCancel(ctx), false, nil, `rm -rf -- "$1"`, dir) // a directory in /tmp is all that could be left
	}
	remote = dir + "/leeward-agent"
	sum := sha256.New()
	if err := h.put(ctx, remote, io.TeeReader(f, sum)); err != nil {
		drop()
		return "", nil, fmt.Errorf("send the agent: %w", err)
	}
	want := hex.EncodeToString(sum.Sum(nil))
	if _, err := h.run(ctx, false, nil, `
have=$(sha256sum <"$1") || exit 1
[ "${have%% *}" = "$2" ] || { echo "it arrived with another SHA-256, ${have%% *}" >&2; exit 1; }
chmod 0755 "$1"`, remote, want); err != nil {
		drop()
		return "", nil, fmt.Errorf("send the agent: %w", err)
	}
	return remote, drop, nil
}

func (h *Host) put(ctx context.Context, remote string, r io.Reader) error {
	c, err := sftp.NewClient(h.client)
	if err != nil {
		return fmt.Errorf("the host's SSH server has no SFTP: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer c.Close()
	f, err := c.Create(remote)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close(), ctx.Err())
}
