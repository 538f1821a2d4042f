package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/home"
	"github.com/leeward-dr/leeward/agent/rescue"
	"github.com/leeward-dr/leeward/streams/bus"
	messages "github.com/leeward-dr/leeward/streams/rescue"
)

// rescueDir is in memory on every live system: what is written there ends with it.
const rescueDir = "/run/leeward-rescue"

type rescueFlags struct {
	enrol   enrolFlags
	token   string
	disks   []string
	confirm []string
	once    bool
	verbose bool
	json    bool
}

func rescueCommand() *cobra.Command {
	f := &rescueFlags{}
	c := &cobra.Command{
		Use:   "rescue [--server https://HOST[:PORT] --token-file FILE --ca-pin PIN --disk NAME=PATH …]",
		Short: "Let this machine's disks be written from recovery points (from a live system)",
		Long: "Turns a machine that was booted from a live system into a master target for its own disks. Without --disk it\n" +
			"lists the disks. With it, the operator confirms what is overwritten by typing the disk's path; then\n" +
			"`leeward failover failback MACHINE --to rescue:NAME` compares the disks and sends what differs. NAME is what the\n" +
			"token was made for: leeward token new --machine NAME. No key of the vault is needed here.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(f.disks) == 0 {
				return listDisks(c.OutOrStdout())
			}
			return f.run(c.Context(), c.InOrStdin(), c.OutOrStdout())
		},
	}
	s := c.Flags()
	s.StringVar(&f.enrol.server, "server", "", "`url` of the management port; not needed again while this system runs")
	s.StringVar(&f.enrol.tokenFile, "token-file", "", "`file` with the one-time token, - for standard input")
	s.StringVar(&f.token, "token", "", "the one-time `token` itself; other users of this system may see it")
	s.StringVar(&f.enrol.pin, "ca-pin", "", "SHA-256 of the public key of the authority to trust, as `leeward token new` prints it")
	s.StringVar(&f.enrol.ca, "ca", "", "`file` with certificates to trust instead of a pin; with neither, those of this system")
	s.StringVar(&f.enrol.dir, "config-dir", rescueDir, "`directory` for what enrolment writes")
	s.StringArrayVar(&f.disks, "disk", nil, "protected disk and the disk here to overwrite with it, as `NAME=PATH`; may be repeated")
	s.StringArrayVar(&f.confirm, "confirm", nil, "`path` of a disk to overwrite, instead of typing it when asked; may be repeated")
	s.BoolVar(&f.once, "once", false, "end when every disk was written and verified; else stay for more until interrupted")
	s.BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	s.BoolVar(&f.json, "log-json", false, "log JSON also on a terminal")
	return c
}

// listDisks shows what could be overwritten, and what must not be.
func listDisks(out io.Writer) error {
	all, err := disk.Locals()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "PATH\tSIZE\tIDENTITY\tHOLDS\tUSE")
	for _, l := range all {
		path := "/dev/" + strings.ReplaceAll(l.Name, "!", "/")
		d, err := disk.Open(path)
		if err != nil {
			fmt.Fprintf(w, "%s\t\t\t\t%v\n", path, err)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", path, gib(d.Size()), or(d.Identity(), "none"), or(disk.Contents(d, d.Size()), "nothing that is known here"), usedFor(d))
		_ = d.Close() // it was only read
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nnow: leeward-agent rescue --server https://HOST --token-file - --ca-pin PIN --disk NAME=PATH")
	return nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func gib(n uint64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// usedFor says why a disk cannot be overwritten now.
func usedFor(d *disk.Disk) string {
	u, err := disk.Inspect(d)
	switch {
	case err != nil:
		return "unknown: " + err.Error()
	case len(u.Mounts) > 0:
		return "IN USE: mounted at " + u.Mounts[0].Path
	case len(u.Swaps) > 0:
		return "IN USE: swap " + u.Swaps[0].Path
	case len(u.Hidden) > 0:
		return "IN USE: mounted where this process does not see it"
	}
	return "free"
}

func (f *rescueFlags) run(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	if f.enrol.tokenFile == "-" { // one reader: what it has read ahead is the answers
		t, err := lines.ReadString('\n')
		if err != nil && (err != io.EOF || t == "") {
			return usage{fmt.Errorf("read the token from standard input: %w", err)}
		}
		f.token = strings.TrimSpace(t)
	}
	disks, err := f.hold()
	if err != nil {
		return err
	}
	defer func() {
		for _, d := range disks {
			_ = d.Close() // what matters was synced
		}
	}()
	if err := f.confirmed(disks, lines, out); err != nil {
		return err
	}
	file := filepath.Join(f.enrol.dir, "agent.json")
	if f.enrol.server != "" {
		f.enrol.tokenFile = or(f.enrol.tokenFile, "-")
		if f.token != "" {
			f.enrol.tokenFile = "-"
		}
		if err := f.enrol.run(ctx, strings.NewReader(f.token+"\n"), io.Discard); err != nil {
			return err
		}
	}
	name := enrolledAs(file)
	if name == "" {
		return usage{fmt.Errorf("this machine is not enrolled: give --server, --token-file and --ca-pin of `leeward token new --machine NAME`")}
	}
	return f.serve(ctx, name, file, disks, out)
}

// hold opens the disks that are to be overwritten; none may be in use.
func (f *rescueFlags) hold() (all map[string]*home.Disk, err error) {
	all = map[string]*home.Disk{}
	defer func() {
		if err != nil {
			for _, d := range all {
				_ = d.Close() // nothing was written
			}
		}
	}()
	for _, arg := range f.disks {
		name, path, ok := strings.Cut(arg, "=")
		if !ok || name == "" || path == "" {
			return all, usage{fmt.Errorf("--disk %q: write NAME=PATH, the protected disk's name and the disk to overwrite", arg)}
		}
		if all[name] != nil {
			return all, usage{fmt.Errorf("--disk %s was given twice", name)}
		}
		d, err := home.Open(path)
		if err != nil {
			return all, err
		}
		all[name] = d
		if u, err := disk.Inspect(d.Reader()); err != nil || len(u.Mounts)+len(u.Swaps)+len(u.Hidden) > 0 {
			return all, errors.Join(err, fmt.Errorf("%w: %s is %s: unmount it, or boot from something else", home.ErrRefused, path, usedFor(d.Reader())))
		}
		if err := d.Hold(); err != nil {
			return all, err
		}
	}
	return all, nil
}

// confirmed asks for each disk whether it is the one.
func (f *rescueFlags) confirmed(disks map[string]*home.Disk, in *bufio.Reader, out io.Writer) error {
	for _, name := range slices.Sorted(maps.Keys(disks)) {
		d := disks[name]
		fmt.Fprintf(out, "%s (%s, %s; holds %s) WILL BE OVERWRITTEN with protected disk %s\n",
			d.Path(), gib(d.Size()), or(d.Identity(), "no identity"), or(disk.Contents(d.Reader(), d.Size()), "nothing that is known here"), name)
		if slices.Contains(f.confirm, d.Path()) {
			continue
		}
		fmt.Fprintf(out, "type %s to go on: ", d.Path())
		said, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("read the confirmation: %w", err)
		}
		if strings.TrimSpace(said) != d.Path() {
			return usage{fmt.Errorf("%s was not confirmed: nothing was written; in scripts add --confirm %s", d.Path(), d.Path())}
		}
	}
	return nil
}

func (f *rescueFlags) serve(ctx context.Context, name, file string, disks map[string]*home.Disk, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := logger(f.verbose, f.json)
	b, err := bus.Connect(ctx, bus.Options{Context: file, Name: "leeward-agent rescue " + name, Log: log})
	if err != nil {
		return err
	}
	defer b.Close()
	p := &progress{log: log}
	left, ended := maps.Clone(disks), make(chan struct{})
	host, _ := os.Hostname()
	s, err := rescue.New(rescue.Config{
		Name: name, Host: host, Version: version(), Disks: disks, Log: log,
		Step: func(disk string, s messages.Step) {
			if s.Total == 0 {
				return // nothing was to be done
			}
			p.tell(agent.Progress{Disk: disk, Phase: s.What, Done: int64(s.Done), Total: int64(s.Total)})
		},
		Done: func(disk, point string) {
			fmt.Fprintf(out, "disk %s on %s is as at point %s, every byte compared\n", disk, disks[disk].Path(), point)
			if delete(left, disk); len(left) == 0 {
				close1(ended)
			}
		},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "ready; now: leeward failover failback MACHINE --to rescue:%s\n", name)
	run, end := context.WithCancel(ctx)
	defer end()
	var wg sync.WaitGroup
	if f.once {
		wg.Go(func() {
			select {
			case <-ended:
				end()
			case <-run.Done():
			}
		})
	}
	err = s.Run(run, b.Conn)
	end()
	wg.Wait()
	t := s.Stats()
	fmt.Fprintf(out, "compared %s, wrote %s, zeroed %s; %s came over the network, %s went\n", gib(uint64(t.Compared)), gib(uint64(t.Written)), gib(uint64(t.Zeroed)), gib(uint64(t.Received)), gib(uint64(t.Sent)))
	return err
}

// close1 closes a channel that may be closed already, by one goroutine.
func close1(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
