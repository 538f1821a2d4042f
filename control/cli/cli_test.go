package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
)

func TestClassify(t *testing.T) {
	cases := []struct {
		err  error
		code int
		try  string
	}{
		{errors.New("it broke"), 1, ""},
		{Usage("leeward --help", "what?"), 2, "leeward --help"},
		{fmt.Errorf("deep: %w", Usage("", "what?")), 2, ""},
		{&Exit{Code: 3, Err: errors.New("in part")}, 3, ""},
		{&Exit{Code: 1}, 1, ""},
		{fmt.Errorf("x: %w", failover.ErrNoPoint), 4, "leeward point ls MACHINE"},
		{fmt.Errorf("x: %w", failover.ErrNoJob), 4, "leeward job ls"},
		{fmt.Errorf("x: %w", vault.ErrNotFound), 4, "see what is there: leeward vault ls"},
		{fmt.Errorf("x: %w", vault.ErrExists), 5, ""},
		{api.Errorf(api.CodeRefused, "--force", "no"), 5, "--force"},
		{api.Errorf(api.CodeNoConnection, "", "no"), 6, ""},
		{fmt.Errorf("x: %w", vault.ErrWrongKey), 7, "give the right key: --key-file FILE, or LEEWARD_KEY"},
		{context.DeadlineExceeded, 8, ""},
		{fmt.Errorf("x: %w", context.Canceled), 130, ""},
		{api.Errorf("tea", "", "a code of the future"), 1, ""},
		{&vault.DamageError{Key: "k", What: "w", Try: "t"}, 1, "t"},
	}
	for _, c := range cases {
		code, message, try := classify(c.err)
		silent := false
		if e, ok := c.err.(*Exit); ok {
			silent = e.Err == nil
		}
		if code != c.code || try != c.try || (message == "") != silent {
			t.Errorf("%v: code %d, %q, try %q, want %d, try %q", c.err, code, message, try, c.code, c.try)
		}
	}
}

func TestJudge(t *testing.T) {
	rpo := func(s float64) *float64 { return &s }
	st := &api.Status{BacklogBytes: 7}
	issue := func(l health.Level, code string) []health.Issue {
		return []health.Issue{{Code: code, Level: l, Cause: "a | b"}}
	}
	cases := []struct {
		all  []api.Machine
		code int
		want string
	}{
		{nil, 1, "LEEWARD WARNING - no machine is protected | rpo=0s;60;300 points=0 backlog=7B"},
		{[]api.Machine{{Machine: "a", RPO: rpo(12.4), Points: 3}}, 0, "LEEWARD OK - 1 machines, worst RPO 12s | rpo=12s;60;300 points=3 backlog=7B"},
		{[]api.Machine{{Machine: "a", RPO: rpo(60)}}, 0, "OK"},
		{[]api.Machine{{Machine: "a", RPO: rpo(61)}}, 1, "WARNING - a: RPO 1m01s |"},
		{[]api.Machine{{Machine: "a", RPO: rpo(61)}, {Machine: "b", RPO: rpo(301)}}, 2, "CRITICAL - a: RPO 1m01s; b: RPO 5m01s | rpo=301s"},
		{[]api.Machine{{Machine: "a"}}, 2, "CRITICAL - a has no recovery point"},
		{[]api.Machine{{Machine: "a", RPO: rpo(1), Issues: issue(health.Warning, "resync")}}, 1, "WARNING - a: a / b | rpo"},
		{[]api.Machine{{Machine: "a", RPO: rpo(1), Issues: issue(health.Critical, "fenced")}}, 2, "CRITICAL"},
		{[]api.Machine{{Machine: "a", RPO: rpo(1), Issues: issue(health.Critical, "rpo-exceeded")}}, 0, "OK"},
	}
	for _, c := range cases {
		code, text := judge(st, c.all, time.Minute, 5*time.Minute)
		if code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%d %s, want %d %s", code, text, c.code, c.want)
		}
	}
}

func TestText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 1 << 30: "1 GiB", 1<<40 + 1<<39: "1.5 TiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-1: "0s", 11 * time.Millisecond: "11ms", 1500 * time.Millisecond: "1.5s", 59 * time.Second: "59s",
		61 * time.Second: "1m01s", 90 * time.Minute: "1h30m", 72 * time.Hour: "3d",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
	for in, want := range map[string]string{"BaseHash": "base_hash", "ID": "id", "NICs": "nics", "disk_size": "disk_size", "CPUs": "cpus", "At": "at"} {
		if got := snake(in); got != want {
			t.Errorf("snake(%s) = %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]int64{"": 0, "4096": 4096, "512MiB": 512 << 20, "2G": 2 << 30, "1 TiB": 1 << 40} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"x", "-1", "1.5G", "1Q", "99999999999T", "G"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("parseSize(%q) = %d", in, got)
		}
	}
}

func TestYAMLHasTheNamesOfJSON(t *testing.T) {
	var b bytes.Buffer
	doc := items("leeward.x.v1", []api.PointRef{{ID: "p1", Time: time.Unix(0, 0).UTC(), Consistency: "crash"}})
	if err := writeYAML(&b, doc); err != nil {
		t.Fatal(err)
	}
	want := "schema: leeward.x.v1\nitems:\n  - id: p1\n    time: \"1970-01-01T00:00:00Z\"\n    consistency: crash\n"
	if b.String() != want {
		t.Errorf("got %s\nwant %s", b.String(), want)
	}
	b.Reset()
	if err := writeYAML(&b, items[string]("leeward.x.v1", nil)); err != nil || b.String() != "schema: leeward.x.v1\nitems: []\n" {
		t.Errorf("an empty list is %q, %v", b.String(), err)
	}
}

func TestProgressText(t *testing.T) {
	p := newProgress(&bytes.Buffer{})
	start := time.Unix(100, 0)
	p.what, p.start = "sda", start
	if got := p.text(start.Add(10*time.Second), 1<<30, 4<<30); got != "sda 25% 1 GiB/4 GiB 102.4 MiB/s ETA 30s" {
		t.Errorf("got %q", got)
	}
	if got := p.text(start, 5, 0); got != "sda 5 B" {
		t.Errorf("got %q", got)
	}
}

// A follower shows every stage once, and ends with the verdict.
func TestFollow(t *testing.T) {
	var errs bytes.Buffer
	a := &app{Options: Options{Err: &errs, Out: &bytes.Buffer{}}, output: "table"}
	jobs := []failover.Job{
		{ID: "tf-1", State: failover.Booting, Revision: 2, Stages: []failover.Stage{{State: failover.Validating}, {State: failover.Booting}}},
		{ID: "tf-1", State: failover.Booting, Revision: 3, Stages: []failover.Stage{{State: failover.Validating}, {State: failover.Booting}}},
		{ID: "tf-1", State: failover.Failed, Revision: 4, Error: "no life", Stages: []failover.Stage{{State: failover.Validating}, {State: failover.Booting}, {State: failover.Failed}}},
	}
	j, err := a.follow(t.Context(), "tf-1", func(_ context.Context, after uint64) (*failover.Job, error) {
		for i := range jobs {
			if jobs[i].Revision > after {
				return &jobs[i], nil
			}
		}
		return nil, errors.New("asked for more than there is")
	})
	if err != nil || j.State != failover.Failed || strings.Count(errs.String(), "\n") != 3 {
		t.Errorf("%+v, %v:\n%s", j, err, errs.String())
	}
	if code, message, _ := classify(a.verdict(j)); code != ExitFailed || !strings.Contains(message, "no life") {
		t.Errorf("verdict: %d %s", code, message)
	}
	for err, want := range map[error]int{context.Canceled: ExitInterrupted, context.DeadlineExceeded: ExitTimeout} {
		if code, message, try := classify(a.detached(err, "tf-1")); code != want || !strings.Contains(message, "goes on") || try != "leeward job follow tf-1" {
			t.Errorf("%v: %d %q %q", err, code, message, try)
		}
	}
}

func TestNamedDisk(t *testing.T) {
	for in, want := range map[string][2]string{
		"sda=/dev/sdb":       {"sda", "/dev/sdb"},
		"/dev/sdb=sda":       {"sda", "/dev/sdb"},
		"sda=other:/x/y=z":   {"sda", "other:/x/y=z"},
		"other:/x/y=z/i=sda": {"sda", "other:/x/y=z/i"},
		"sda=disk.img":       {"sda", "disk.img"},
	} {
		if name, path, err := namedDisk(in); err != nil || name != want[0] || path != want[1] {
			t.Errorf("%s: %q, %q, %v", in, name, path, err)
		}
	}
	for _, in := range []string{"", "sda", "=x", "sda="} {
		if name, path, err := namedDisk(in); err == nil {
			t.Errorf("%q is taken as %q, %q", in, name, path)
		}
	}
}
