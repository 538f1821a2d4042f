package push

import (
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/streams"
)

// What is done on a host.
const (
	DidInstall   = "installed"
	DidUpgrade   = "upgraded"
	DidUninstall = "uninstalled"
)

// Grant is what an agent needs to be let in.
type Grant struct {
	Server string // URL of the management port
	Token  string
	Pin    string // of the authority; empty where the system's will do
}

// Server is what the other side of the agents does.
type Server interface {
	// Token makes a one-time token for a machine.
	Token(ctx context.Context, machine string) (Grant, error)
	// Mark remembers which agent the machine has now, if any; wait returns when another
	// one holds the named disks, or with none named those that were held before.
	Mark(ctx context.Context, machine string) (wait func(ctx context.Context, disks ...string) error, err error)
	// Revoke refuses the machine's agent for good.
	Revoke(ctx context.Context, machine string) error
}

// Options of what is done on one host.
type Options struct {
	Binary  func(arch string) (file string, err error) // finds the agent for a processor, as Go calls it
	Unit    string                                     // text of its unit
	Machine string                                     // name; empty: the host's own
	Group   string                                     // consistency group; empty: one of its own
	Disks   []string                                   // PATH[=NAME]; none: all fixed disks that the agent can follow
	Args    []string                                   // more arguments of leeward-agent run
	NoWait  bool                                       // do not wait for the first heartbeat
	Wait    time.Duration
	Step    func(text string) // told before each step; nil: nobody
}

func (o *Options) step(format string, a ...any) {
	if o.Step != nil {
		o.Step(fmt.Sprintf(format, a...))
	}
}

// Result is what was done. Schema "leeward.push.v1".
type Result struct {
	Schema  string   `json:"schema,omitempty"`
	Host    string   `json:"host"`
	Machine string   `json:"machine,omitempty"`
	Done    string   `json:"done,omitempty"`    // installed, upgraded, uninstalled
	Version string   `json:"version,omitempty"` // that is there now
	Was     string   `json:"was,omitempty"`     // that was there before
	Disks   []string `json:"disks,omitempty"`
	Left    []string `json:"left_out,omitempty"` // disks that cannot be followed, and why
	Online  bool     `json:"online,omitempty"`   // the first heartbeat came
	Error   string   `json:"error,omitempty"`
}

// architecture reads for which processor a binary is, as Go calls it, and refuses one
// that would need libraries of the host.
func architecture(file string) (string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return "", fmt.Errorf("%s is no program for Linux: %w", file, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s needs libraries of the host: build it with CGO_ENABLED=0", file)
		}
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", fmt.Errorf("%s is for %s", file, f.Machine)
}

// ready looks at the host and finds the binary that fits.
func (h *Host) ready(ctx context.Context, o *Options) (f Facts, binary string, err error) {
	o.step("looking")
	if f, err = h.Look(ctx); err != nil {
		return f, "", err
	}
	if f.Package != "" {
		return f, "", fmt.Errorf("%w: it has the agent from a package (%s): use its package manager", ErrHost, strings.TrimSpace(f.Package))
	}
	if binary, err = o.Binary(f.Arch); err != nil {
		return f, "", err
	}
	arch, err := architecture(binary)
	if err != nil {
		return f, "", err
	}
	if arch != f.Arch {
		return f, "", fmt.Errorf("%w: its processor is %s, and %s is for %s: name the right one with --agent", ErrHost, f.Arch, binary, arch)
	}
	st, err := os.Stat(binary)
	if err != nil {
		return f, "", err
	}
	if need := 2 * st.Size(); f.RoomBytes < need {
		return f, "", fmt.Errorf("%w: /usr/local has room for %d MiB and needs %d", ErrHost, f.RoomBytes>>20, need>>20)
	}
	return f, binary, nil
}

// Install puts the agent on a host that has none and waits until it is heard of. After a
// failure it can be called again, and goes on with what is not done.
func Install(ctx context.Context, h *Host, s Server, o Options) (r *Result, err error) {
	r = &Result{Host: h.Target.String()}
	f, binary, err := h.ready(ctx, &o)
	if err != nil {
		return r, err
	}
	if f.Active {
		return r, fmt.Errorf("%w: an agent runs on it (%s): leeward agent upgrade, or leeward agent uninstall first", ErrHost, f.Version)
	}
	if r.Machine = o.Machine; r.Machine == "" {
		r.Machine = f.Name
	}
	if err := streams.ValidName("machine", r.Machine); err != nil {
		return r, fmt.Errorf("%w: name it with --machine", err)
	}
	o.step("sending the agent")
	remote, drop, err := h.send(ctx, binary)
	if err != nil {
		return r, err
	}
	defer drop()
	if r.Disks, r.Left, err = h.disks(ctx, remote, o.Disks); err != nil {
		return r, err
	}
	o.step("installing")
	version, err := h.place(ctx, remote, o.Unit)
	if err != nil {
		return r, err
	}
	o.step("enrolling as %s", r.Machine)
	if err := h.enrol(ctx, s, r.Machine); err != nil {
		return r, err
	}
	heard, err := s.Mark(ctx, r.Machine)
	if err != nil {
		return r, err
	}
	o.step("starting")
	if err := h.configure(ctx, r, &o); err != nil {
		return r, err
	}
	if err := h.stays(ctx); err != nil {
		return r, err
	}
	r.Done, r.Version = DidInstall, version
	return r, o.wait(ctx, heard, r)
}

// wait waits for the first heartbeat.
func (o *Options) wait(ctx context.Context, heard func(context.Context, ...string) error, r *Result) error {
	if o.NoWait {
		return nil
	}
	o.step("waiting for the first heartbeat")
	ctx, cancel := context.WithTimeout(ctx, o.Wait)
	defer cancel()
	if err := heard(ctx, names(r.Disks)...); err != nil {
		return fmt.Errorf("the agent runs, and is not heard of: %w: see journalctl -u leeward-agent on the host", err)
	}
	r.Online = true
	return nil
}

// found is a line of `leeward-agent drivers -o json`.
type found struct {
	Path  string `json:"path"`
	Name  string `json:"name"`
	Error string `json:"error"`
}

// disks chooses what to protect: what was named, or all that the agent finds and can
// follow. The agent itself looks, from where it was sent to.
func (h *Host) disks(ctx context.Context, agent string, named []string) (use, left []string, err error) {
	out, err := h.run(ctx, true, nil, `a=$1; shift; exec "$a" drivers -o json "$@"`, append([]string{agent}, paths(named)...)...)
	if err != nil {
		return nil, nil, fmt.Errorf("have the agent look at the disks: %w", err)
	}
	use, left, err = choose(out, named)
	if err == nil && len(use) == 0 {
		err = fmt.Errorf("%w: none of its disks can be followed: %s", ErrHost, strings.Join(left, "; "))
	}
	return use, left, err
}

func paths(named []string) []string {
	all := make([]string, len(named))
	for i, n := range named {
		all[i], _, _ = strings.Cut(n, "=")
	}
	return all
}

// names are those of disks, as the agent calls them.
func names(disks []string) []string {
	all := make([]string, len(disks))
	for i, d := range disks {
		path, name, ok := strings.Cut(d, "=")
		if all[i] = name; !ok {
			all[i] = filepath.Base(path)
		}
	}
	return all
}

// choose reads what the agent said. A disk that was named must be good; among those that
// were found the bad ones are left out and told. Disks get the kernel's name: that is how
// an admin knows them, and the path is one that stays.
func choose(out string, named []string) (use, left []string, err error) {
	var all []found
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, nil, fmt.Errorf("the agent's list of disks is unreadable: %w: %.200q", err, out)
	}
	if len(named) > 0 && len(all) != len(named) {
		return nil, nil, fmt.Errorf("the agent speaks of %d disks, asked for %d", len(all), len(named))
	}
	for i, d := range all {
		if d.Error != "" {
			if len(named) > 0 {
				return nil, nil, fmt.Errorf("%w: %s", ErrHost, d.Error)
			}
			left = append(left, d.Path+": "+d.Error)
			continue
		}
		line := d.Path + "=" + strings.ReplaceAll(d.Name, "!", "-") // cciss!c0d0
		if len(named) > 0 {
			line = named[i]
		}
		if strings.ContainsAny(line, "\r\n") {
			return nil, nil, fmt.Errorf("%q is no path of a disk", line)
		}
		use = append(use, line)
	}
	return use, left, nil
}

// place puts the binary and the unit where they belong: each whole or not at all, the
// binary before kept aside. It returns the version that is there now.
func (h *Host) place(ctx context.Context, binary, unit string) (version string, err error) {
	out, err := h.run(ctx, true, []byte(unit), `
set -eu
umask 022
mkdir -p /usr/local/bin /etc/systemd/system
cp -- "$1" /usr/local/bin/.leeward-agent.new
chown 0:0 /usr/local/bin/.leeward-agent.new
chmod 0755 /usr/local/bin/.leeward-agent.new
/usr/local/bin/.leeward-agent.new version
cat >/etc/systemd/system/.leeward-agent.service.new
sync
if [ -e /usr/local/bin/leeward-agent ]; then
	ln -f /usr/local/bin/leeward-agent /usr/local/bin/.leeward-agent.old
	cp -f /etc/systemd/system/leeward-agent.service /etc/systemd/system/.leeward-agent.service.old
fi
mv /usr/local/bin/.leeward-agent.new /usr/local/bin/leeward-agent
mv /etc/systemd/system/.leeward-agent.service.new /etc/systemd/system/leeward-agent.service
if command -v restorecon >/dev/null 2>&1; then restorecon /usr/local/bin/leeward-agent /etc/systemd/system/leeward-agent.service; fi
systemctl daemon-reload`, binary)
	if err != nil {
		return "", fmt.Errorf("install the agent: %w", err)
	}
	return strings.TrimPrefix(strings.TrimSpace(out), "leeward-agent "), nil
}

// enrol has the agent use a token, that it reads from standard input.
func (h *Host) enrol(ctx context.Context, s Server, machine string) error {
	g, err := s.Token(ctx, machine)
	if err != nil {
		return err
	}
	if _, err := h.run(ctx, true, []byte(g.Token+"\n"), `
set -eu
server=$1 pin=$2
set -- enrol --config-dir /etc/leeward --server "$server" --token-file -
if [ -n "$pin" ]; then set -- "$@" --ca-pin "$pin"; fi
exec /usr/local/bin/leeward-agent "$@"`, g.Server, g.Pin); err != nil {
		return fmt.Errorf("enrol at %s: %w: if the host reaches the management port elsewhere, name it with --manage", g.Server, err)
	}
	return nil
}

// configure writes what to protect and starts the unit.
func (h *Host) configure(ctx context.Context, r *Result, o *Options) error {
	args := []string{"--machine", r.Machine}
	if o.Group != "" {
		args = append(args, "--group", o.Group)
	}
	for _, a := range append(args, o.Args...) {
		// systemd splits the value at blanks, and the file knows quotes of its own.
		if strings.ContainsAny(a, " \t\r\n'\"\\$") {
			return fmt.Errorf("%q cannot stand in the unit's environment file: it has a blank, a quote or a dollar sign", a)
		}
	}
	env := "# Written by leeward agent install.\nLEEWARD_CONTEXT=/etc/leeward/agent.json\nLEEWARD_DISKS_FILE=/etc/leeward/disks\n" +
		"LEEWARD_AGENT_ARGS=\"" + strings.Join(append(args, o.Args...), " ") + "\"\n"
	disks := "# Written by leeward agent install. One PATH[=NAME] a line; after an edit: systemctl reload leeward-agent\n" + strings.Join(r.Disks, "\n") + "\n"
	for _, f := range []struct{ path, mode, text string }{{"/etc/leeward/agent.env", "0600", env}, {"/etc/leeward/disks", "0644", disks}} {
		if _, err := h.run(ctx, true, []byte(f.text), `
set -eu
umask 077
mkdir -p -m 0755 /etc/leeward
cat >"$1.new"
chmod "$2" "$1.new"
mv "$1.new" "$1"`, f.path, f.mode); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	if _, err := h.run(ctx, true, nil, `systemctl enable --quiet leeward-agent.service && systemctl restart leeward-agent.service`); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	return nil
}

// stays waits until the unit has run for a while, and tells what it said if it does not.
func (h *Host) stays(ctx context.Context) error {
	_, err := h.run(ctx, true, nil, `
i=0 ok=0 n=
while [ $i -lt 30 ]; do
	now=$(systemctl show -p NRestarts --value leeward-agent.service)
	if systemctl is-active --quiet leeward-agent.service && [ "$now" = "$n" ]; then
		ok=$((ok + 1))
		[ $ok -lt 6 ] || exit 0
	else
		ok=0
	fi
	n=$now i=$((i + 1))
	sleep 0.5
done
echo "its unit does not stay up" >&2
journalctl -q -o cat -n 5 -u leeward-agent.service >&2
exit 1`)
	if err != nil {
		return fmt.Errorf("the agent was started: %w", err)
	}
	return nil
}

// Upgrade puts another agent in the place of the one that runs. While it starts again the
// kernel goes on recording. One that does not stay up makes room for the one before.
func Upgrade(ctx context.Context, h *Host, s Server, o Options) (r *Result, err error) {
	r = &Result{Host: h.Target.String()}
	f, binary, err := h.ready(ctx, &o)
	if err != nil {
		return r, err
	}
	if r.Was = f.Version; f.Version == "" || !f.Enrolled {
		return r, fmt.Errorf("%w: no agent was installed on it by leeward agent install", ErrHost)
	}
	if r.Machine, err = h.machine(ctx); err != nil {
		return r, err
	}
	o.step("sending the agent")
	remote, drop, err := h.send(ctx, binary)
	if err != nil {
		return r, err
	}
	defer drop()
	o.step("upgrading from %s", f.Version)
	version, err := h.place(ctx, remote, o.Unit)
	if err != nil {
		return r, err
	}
	heard, err := s.Mark(ctx, r.Machine)
	if err != nil {
		return r, err
	}
	_, err = h.run(ctx, true, nil, `systemctl restart leeward-agent.service`)
	if err == nil {
		err = h.stays(ctx)
	}
	if err != nil {
		back := h.back(ctx)
		if back == nil {
			return r, fmt.Errorf("%w; the agent before, %s, runs again", err, f.Version)
		}
		return r, fmt.Errorf("%w; and the agent before does not run again: %w", err, back)
	}
	r.Done, r.Version = DidUpgrade, version
	if _, err := h.run(ctx, true, nil, `rm -f /usr/local/bin/.leeward-agent.old /etc/systemd/system/.leeward-agent.service.old`); err != nil {
		return r, fmt.Errorf("remove the agent before: %w", err)
	}
	return r, o.wait(ctx, heard, r)
}

// back brings the agent before back.
func (h *Host) back(ctx context.Context) error {
	_, err := h.run(ctx, true, nil, `
set -eu
mv /usr/local/bin/.leeward-agent.old /usr/local/bin/leeward-agent
mv /etc/systemd/system/.leeward-agent.service.old /etc/systemd/system/leeward-agent.service
systemctl daemon-reload
systemctl restart leeward-agent.service`)
	if err != nil {
		return err
	}
	return h.stays(ctx)
}

// machine reads as which machine the host's agent was enrolled.
func (h *Host) machine(ctx context.Context) (string, error) {
	out, err := h.run(ctx, true, nil, `cat /etc/leeward/agent.json`)
	if err != nil {
		return "", fmt.Errorf("read which machine it is: %w", err)
	}
	var c struct {
		Machine string `json:"leeward_machine"`
	}
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		return "", fmt.Errorf("read which machine it is, in /etc/leeward/agent.json: %w", err)
	}
	return c.Machine, streams.ValidName("machine", c.Machine)
}

// Uninstall removes the agent and all that Install has made; then the server refuses its
// key for good. What it has sent stays in the vault. A host that was half installed, or
// is already clean, ends clean.
func Uninstall(ctx context.Context, h *Host, s Server, o Options) (r *Result, err error) {
	r = &Result{Host: h.Target.String()}
	o.step("looking")
	f, err := h.Look(ctx)
	if err != nil {
		return r, err
	}
	if f.Package != "" {
		return r, fmt.Errorf("%w: it has the agent from a package (%s): use its package manager", ErrHost, strings.TrimSpace(f.Package))
	}
	if r.Was, r.Machine = f.Version, o.Machine; f.Enrolled {
		if r.Machine, err = h.machine(ctx); err != nil {
			return r, err
		}
	}
	o.step("removing the agent")
	if _, err := h.run(ctx, true, nil, `
set -eu
if [ -e /etc/systemd/system/leeward-agent.service ]; then systemctl disable --quiet --now leeward-agent.service; fi
if [ -d /run/leeward-agent ] && [ -x /usr/local/bin/leeward-agent ]; then timeout 60 /usr/local/bin/leeward-agent forget --state-dir /run/leeward-agent; fi
rm -rf /run/leeward-agent
rm -f /etc/systemd/system/leeward-agent.service /etc/systemd/system/.leeward-agent.service.new /etc/systemd/system/.leeward-agent.service.old
rm -f /usr/local/bin/leeward-agent /usr/local/bin/.leeward-agent.new /usr/local/bin/.leeward-agent.old
for f in agent.env agent.json agent.creds agent-ca.pem disks agent.env.new disks.new; do rm -f "/etc/leeward/$f"; done
rmdir /etc/leeward 2>/dev/null || true
systemctl daemon-reload
systemctl reset-failed leeward-agent.service 2>/dev/null || true`); err != nil {
		return r, fmt.Errorf("remove the agent: %w", err)
	}
	r.Done = DidUninstall
	if r.Machine == "" {
		return r, nil
	}
	o.step("revoking the key of %s", r.Machine)
	if err := s.Revoke(ctx, r.Machine); err != nil {
		return r, fmt.Errorf("the agent is removed; its key is still let in: %w", err)
	}
	return r, nil
}
