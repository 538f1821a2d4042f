package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
)

const (
	bundleTail = 1 << 20 // bytes of a log
	bundleTime = 15 * time.Second
)

// bundle is a support bundle that grows in memory: every part is bounded. Whatever
// enters it passes the scrubber.
type bundle struct {
	scrub   *scrubber
	now     time.Time
	tar     *tar.Writer
	Schema  string   `json:"schema"`
	Time    string   `json:"time"`
	Parts   []string `json:"parts"`
	Missing []gone   `json:"missing,omitempty"`
}

// gone is a part that could not be had.
type gone struct {
	Part string `json:"part"`
	Why  string `json:"why"`
}

func (a *app) supportCommand() *cobra.Command {
	var logs []string
	var lines int
	b := &cobra.Command{
		Use: "bundle FILE.tar.gz", Short: "Write what helps others to help you into a file, without secrets", Args: args("FILE.tar.gz"),
		Long: "Write versions, settings, status, machines, events, jobs, policies, plans and the ends of logs into a\n" +
			"new file. Keys, passwords, tokens and the addresses of webhooks are taken out; names of machines,\n" +
			"disks and hosts stay in: look at it before you send it. What cannot be had is named in\n" +
			"manifest.json, and the exit code is 3 then.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.bundle(cmd.Context(), args[0], logs, lines) },
	}
	b.Flags().StringArrayVar(&logs, "log", nil, "also the end of this log `file`; may be repeated")
	b.Flags().IntVar(&lines, "journal-lines", 2000, "lines of the units' journal, 0 for none")
	return noun("support", "Help for those who help", b)
}

func (a *app) bundle(ctx context.Context, file string, logs []string, lines int) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return api.Errorf(api.CodeRefused, "name a file that is not there yet", "%s exists", file)
	}
	if err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil && !errors.Is(err, errInPart) {
			_ = os.Remove(file) // half a bundle helps nobody
		}
	}()
	z := gzip.NewWriter(f)
	now := time.Now().UTC()
	b := &bundle{
		scrub: newScrubber(a.dir, a.Getenv("LEEWARD_KEY"), a.Getenv("LEEWARD_NEW_KEY")), tar: tar.NewWriter(z),
		now: now, Schema: "leeward.support.v1", Time: stamp(now),
	}
	if err := errors.Join(a.local(ctx, b, logs, lines), a.asked(ctx, b)); err != nil {
		return err
	}
	if err := errors.Join(b.document("manifest.json", b, nil), b.tar.Close(), z.Close()); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	fmt.Fprintf(a.Out, "%s has %d parts\n", file, len(b.Parts))
	if len(b.Missing) == 0 {
		return nil
	}
	for _, m := range b.Missing {
		a.note("missing: %s: %s", m.Part, m.Why)
	}
	return &Exit{Code: ExitPartial, Err: errInPart}
}

var errInPart = errors.New("the bundle is written, but not all of it could be had")

// local adds what needs no server.
func (a *app) local(ctx context.Context, b *bundle, logs []string, lines int) error {
	host, _ := os.Hostname()
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // elsewhere there is none
	errs := []error{
		b.document("version.json", a.Version, nil),
		b.document("host.json", map[string]any{
			"hostname": host, "kernel": strings.TrimSpace(string(kernel)), "cpus": runtime.NumCPU(), "dir": a.dir,
		}, nil),
	}
	for _, name := range []string{filepath.Join(a.dir, "leeward.yaml"), "/etc/leeward/leeward.env", "/etc/os-release"} {
		text, err := tail(name, bundleTail)
		if errors.Is(err, os.ErrNotExist) {
			continue // settings are optional
		}
		errs = append(errs, b.add("config/"+filepath.Base(name), text, err))
	}
	for i, name := range logs {
		text, err := tail(name, bundleTail)
		errs = append(errs, b.add(fmt.Sprintf("logs/%d-%s", i+1, filepath.Base(name)), text, err))
	}
	if tool, err := exec.LookPath("journalctl"); err == nil && lines > 0 {
		ctx, cancel := context.WithTimeout(ctx, bundleTime)
		defer cancel()
		c := exec.CommandContext(ctx, tool, "--no-pager", "--quiet", "-o", "short-iso", "-n", fmt.Sprint(lines),
			"-u", "leeward.service", "-u", "leeward-agent.service")
		c.WaitDelay = time.Second
		text, err := c.Output()
		if len(text) > 4*bundleTail {
			text = text[len(text)-4*bundleTail:]
		}
		errs = append(errs, b.add("logs/journal", text, err))
	}
	return errors.Join(errs...)
}

// asked adds what control says. Each question has its own time: a control that is half
// there answers some.
func (a *app) asked(ctx context.Context, b *bundle) error {
	c, done, err := a.connect(ctx)
	if err != nil {
		b.Missing = append(b.Missing, gone{"what control knows", b.scrub.scrub(err.Error())})
		return nil
	}
	defer done()
	ask := func(name string, get func(ctx context.Context) (any, error)) error {
		ctx, cancel := context.WithTimeout(ctx, bundleTime)
		defer cancel()
		v, err := get(ctx)
		return b.document(name, v, err)
	}
	return errors.Join(
		ask("status.json", func(ctx context.Context) (any, error) { return c.Status(ctx) }),
		ask("machines.json", func(ctx context.Context) (any, error) { return c.Machines(ctx, api.Query{}) }),
		ask("events.json", func(ctx context.Context) (any, error) { return c.Events(ctx, api.Query{Limit: 1000}) }),
		ask("jobs.json", func(ctx context.Context) (any, error) { return c.Jobs(ctx, api.Query{Limit: 100}) }),
		ask("streams.json", func(ctx context.Context) (any, error) { return c.Streams(ctx) }),
		ask("vault.json", func(ctx context.Context) (any, error) { return c.Vault(ctx) }),
		ask("groups.json", func(ctx context.Context) (any, error) { return c.Groups(ctx) }),
		ask("policies.json", func(ctx context.Context) (any, error) { return c.Policies(ctx) }),
		ask("plans.json", func(ctx context.Context) (any, error) { return c.Plans(ctx) }),
		ask("runs.json", func(ctx context.Context) (any, error) { return c.Runs(ctx) }),
		ask("notifications.json", func(ctx context.Context) (any, error) { return c.Notifications(ctx) }),
		ask("audit.json", func(ctx context.Context) (any, error) {
			all, err := c.Records(ctx, api.Query{Limit: 500})
			for i := range all {
				all[i].Request, all[i].Key = "", "" // what was asked may hold anything
			}
			return all, err
		}),
	)
}

// document adds v as JSON, or why it could not be had.
func (b *bundle) document(name string, v any, err error) error {
	var text bytes.Buffer
	if err == nil {
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false) // a secret with a & must look like itself
		e.SetIndent("", "  ")
		err = e.Encode(v)
	}
	return b.add(name, text.Bytes(), err)
}

// add adds a part, or why it could not be had. Its error is the archive's.
func (b *bundle) add(name string, text []byte, err error) error {
	if err != nil {
		b.Missing = append(b.Missing, gone{name, b.scrub.scrub(err.Error())})
		return nil
	}
	clean := b.scrub.scrub(string(text))
	h := &tar.Header{Name: "leeward-support/" + name, Mode: 0o600, Size: int64(len(clean)), ModTime: b.now, Typeflag: tar.TypeReg}
	if err := b.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	if _, err := io.WriteString(b.tar, clean); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	b.Parts = append(b.Parts, name)
	return nil
}

// tail reads the last bytes of a file, from the start of a line on: what a cut secret
// looks like nobody knows.
func tail(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	from := max(st.Size()-most, 0)
	text, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if from > 0 {
		if _, rest, ok := bytes.Cut(text, []byte("\n")); ok {
			text = rest
		}
	}
	return text, err
}
