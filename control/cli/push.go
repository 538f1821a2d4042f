package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/push"
	"github.com/leeward-dr/leeward/control/push/crew"
)

// pushFlags say how to get onto hosts and what to put there.
type pushFlags struct {
	o            push.Options
	dial         push.Dialer
	manage       string
	ask          bool
	passwordFile string
	agent        string
	parallel     int
}

// pushCommands are the verbs of agent that go to other hosts.
func (a *app) pushCommands() []*cobra.Command {
	var in, up, un pushFlags
	install := &cobra.Command{
		Use: "install [USER@]HOST[:PORT] …", Short: "Put the agent on hosts over SSH, let it in, and wait until it protects their disks", Args: cobra.MinimumNArgs(1),
		Long: "Put the agent on hosts over SSH, let it in with a one-time token, and wait for its first heartbeat.\n\n" +
			"The user must be root there or may use sudo. The host's key must be known (~/.ssh/known_hosts) or named with\n" +
			"--host-key. Without --disk all fixed disks of the host are protected. The agent comes to /usr/local/bin with a\n" +
			"unit in /etc/systemd/system; leeward agent uninstall removes all of it.",
		RunE: a.with(func(ctx context.Context, c *api.Client, hosts []string) error {
			if in.o.Machine != "" && len(hosts) > 1 {
				return Usage("", "--machine names one machine, and there are %d hosts", len(hosts))
			}
			return a.push(ctx, &in, &crew.Server{Client: c, Manage: in.manage}, hosts, push.Install)
		}),
	}
	f := install.Flags()
	f.StringVar(&in.o.Machine, "machine", "", "name of the machine (default: the host's own name)")
	f.StringVar(&in.o.Group, "group", "", "consistency group (default: one of its own)")
	f.StringArrayVar(&in.o.Disks, "disk", nil, "block device of the host to protect, as `PATH[=NAME]`; may be repeated (default: all fixed disks)")
	f.StringArrayVar(&in.o.Args, "agent-arg", nil, "argument for leeward-agent run, e.g. --interval=30s; may be repeated")
	f.StringVar(&in.manage, "manage", "", "`url` of the management port as the host reaches it (default: https:// and this host's address in the SSH connection)")
	upgrade := &cobra.Command{
		Use: "upgrade [USER@]HOST[:PORT] …", Short: "Put another version of the agent on hosts; nothing that is written meanwhile is lost", Args: cobra.MinimumNArgs(1),
		Long: "Put another version of the agent on hosts that leeward agent install has prepared. The kernel records what is\n" +
			"written while the agent starts again. If it does not stay up, the one before comes back.",
		RunE: a.with(func(ctx context.Context, c *api.Client, hosts []string) error {
			return a.push(ctx, &up, &crew.Server{Client: c}, hosts, push.Upgrade)
		}),
	}
	for flags, c := range map[*pushFlags]*cobra.Command{&in: install, &up: upgrade} {
		f := c.Flags()
		f.StringVar(&flags.agent, "agent", "", "`file` with the agent for the hosts (default: the package's for their processor, or leeward-agent beside this program)")
		f.BoolVar(&flags.o.NoWait, "no-wait", false, "do not wait for the first heartbeat")
		f.DurationVar(&flags.o.Wait, "wait-time", 2*time.Minute, "longest wait for the first heartbeat")
		flags.add(c)
	}
	uninstall := &cobra.Command{
		Use: "uninstall [USER@]HOST[:PORT] …", Short: "Remove the agent from hosts, leave nothing there, and refuse its key; its points stay", Args: cobra.MinimumNArgs(1),
		RunE: a.with(func(ctx context.Context, c *api.Client, hosts []string) error {
			return a.push(ctx, &un, &crew.Server{Client: c}, hosts, push.Uninstall)
		}),
	}
	un.add(uninstall)
	return []*cobra.Command{install, upgrade, uninstall}
}

func (f *pushFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.StringArrayVarP(&f.dial.Identities, "identity", "i", nil, "`file` with a private key; may be repeated (default: those of ~/.ssh, and the SSH agent's)")
	s.StringArrayVar(&f.dial.KnownHosts, "known-hosts", nil, "`file` with keys of hosts (default: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts)")
	s.StringArrayVar(&f.dial.HostKeys, "host-key", nil, "`fingerprint` of a host's key that is right, SHA256:…; may be repeated")
	s.BoolVar(&f.ask, "ask-password", false, "ask for the user's password, for SSH and sudo")
	s.StringVar(&f.passwordFile, "password-file", "", "`file` with the user's password, - for standard input")
	s.DurationVar(&f.dial.Timeout, "connect-time", 20*time.Second, "longest wait for a host to let us in")
	s.IntVar(&f.parallel, "parallel", 8, "hosts at the same time")
}

// fill reads the password and finds the agent.
func (f *pushFlags) fill(a *app) error {
	if f.parallel < 1 || f.dial.Timeout <= 0 {
		return Usage("", "--parallel and --connect-time must be more than nothing")
	}
	f.dial.AgentSock = a.Getenv("SSH_AUTH_SOCK")
	f.dial.Passphrase = func(file string) ([]byte, error) { return a.secret("passphrase of " + file) }
	switch {
	case f.ask && f.passwordFile != "":
		return Usage("", "--ask-password and --password-file are two ways to say one thing")
	case f.ask:
		b, err := a.secret("password of the user on the hosts")
		if err != nil {
			return err
		}
		f.dial.Password = b
	case f.passwordFile != "":
		in := a.In
		if f.passwordFile != "-" {
			file, err := os.Open(f.passwordFile)
			if err != nil {
				return Usage("", "read the password: %v", err)
			}
			defer file.Close()
			in = file
		}
		b, err := io.ReadAll(io.LimitReader(in, 4<<10))
		if err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
		f.dial.Password, _, _ = bytes.Cut(b, []byte("\n"))
	}
	f.o.Unit = crew.Unit()
	f.o.Binary = func(arch string) (string, error) {
		file, err := crew.FindAgent(f.agent, arch)
		if err != nil {
			return "", Usage("name it with --agent FILE", "%v", err)
		}
		return file, nil
	}
	return nil
}

// secret asks on the terminal for what nobody may see.
func (a *app) secret(what string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, Usage("give it in a file: --password-file", "there is no terminal to ask for the %s", what)
	}
	defer tty.Close()
	fmt.Fprintf(tty, "%s: ", what)
	defer fmt.Fprintln(tty)
	return term.ReadPassword(int(tty.Fd()))
}

// push does one thing on every host, several at a time, and tells how each went. One host's
// failure is that host's alone.
func (a *app) push(ctx context.Context, f *pushFlags, s *crew.Server, hosts []string, do func(context.Context, *push.Host, push.Server, push.Options) (*push.Result, error)) error {
	name := ""
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	targets := make([]push.Target, len(hosts))
	for i, h := range hosts {
		t, err := push.ParseTarget(h, name)
		if err != nil {
			return Usage("", "%v", err)
		}
		targets[i] = t
	}
	if err := f.fill(a); err != nil {
		return err
	}
	defer clear(f.dial.Password)
	results, errs := make([]*push.Result, len(hosts)), make([]error, len(hosts))
	var say sync.Mutex
	var g errgroup.Group
	g.SetLimit(f.parallel)
	for i, t := range targets {
		g.Go(func() error {
			o := f.o
			o.Step = func(text string) {
				say.Lock()
				defer say.Unlock()
				a.note("%s: %s", t, text)
			}
			results[i], errs[i] = a.pushOne(ctx, f, s, t, o, do)
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return a.pushed(results, errs)
}

func (a *app) pushOne(ctx context.Context, f *pushFlags, s *crew.Server, t push.Target, o push.Options, do func(context.Context, *push.Host, push.Server, push.Options) (*push.Result, error)) (*push.Result, error) {
	h, err := f.dial.Dial(ctx, t)
	if err != nil {
		return &push.Result{Host: t.String()}, err
	}
	defer h.Close()
	mine := *s
	if mine.Manage == "" {
		mine.Manage = "https://" + net.JoinHostPort(h.LocalIP(), "443")
	}
	return do(ctx, h, &mine, o)
}

// pushed prints the results. One host's error is the command's; of several hosts those
// that failed make it a partial success, or none.
func (a *app) pushed(results []*push.Result, errs []error) error {
	bad := 0
	for i, err := range errs {
		if err != nil {
			bad++
			results[i].Error = err.Error()
		}
	}
	if len(results) == 1 && bad == 1 {
		return pushError(errs[0])
	}
	if err := a.print(items("leeward.pushes.v1", results), func(w io.Writer) {
		row(w, "HOST", "MACHINE", "DONE", "VERSION", "DISKS", "ONLINE", "ERROR")
		for _, r := range results {
			online := ""
			if r.Online {
				online = "yes"
			}
			row(w, r.Host, r.Machine, r.Done, r.Version, len(r.Disks), online, r.Error)
		}
	}); err != nil {
		return err
	}
	for _, r := range results {
		for _, l := range r.Left {
			a.note("%s: left out: %s", r.Host, l)
		}
	}
	switch bad {
	case 0:
		return nil
	case len(results):
		return api.Errorf(api.CodeFailed, "", "it failed on all %d hosts", bad)
	}
	return &Exit{ExitPartial, fmt.Errorf("it failed on %d of %d hosts", bad, len(results))}
}

// pushError gives an error its code.
func pushError(err error) error {
	switch {
	case errors.Is(err, push.ErrUnreachable):
		return api.Errorf(api.CodeNoConnection, "", "%w", err)
	case errors.Is(err, push.ErrHostKey):
		return api.Errorf(api.CodeRefused, "", "%w", err)
	case errors.Is(err, push.ErrAuth):
		return api.Errorf(api.CodeNotAuthorised, "name a key with --identity, or use --ask-password", "%w", err)
	case errors.Is(err, push.ErrHost):
		return api.Errorf(api.CodeRefused, "", "%w", err)
	}
	return err
}
