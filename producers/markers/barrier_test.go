package markers

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/streams/wire"
)

var update = flag.Bool("update", false, "rewrite the expected output of testdata/*.txt")

func cut(machine string) *wire.Member {
	return &wire.Member{Machine: machine, Disks: []wire.DiskCut{{Disk: "sda", Epoch: 1, Number: 2, Size: 4096, Frozen: true}}}
}

// A scenario is a list of commands; lines that start with "> " are what the barrier
// wants done. Commands:
//
//	begin GROUP MACHINE...
//	at DURATION                      the time since the beginning
//	MACHINE STAGE [ERROR...]         an answer
//	tick | cancel
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, want)
			if *update {
				err = os.WriteFile(file, got, 0o644)
			}
			if err != nil || !*update && !bytes.Equal(got, want) {
				t.Errorf("%v, got:\n%s\nwant:\n%s", err, got, want)
			}
		})
	}
}

func replay(t *testing.T, script []byte) []byte {
	var out bytes.Buffer
	var b *Barrier
	zero := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	now := zero
	show := func(e Effects) {
		if o := e.Send; o != nil {
			fmt.Fprintf(&out, "> order %s", o.Stage)
			if o.Point != "" {
				fmt.Fprintf(&out, " point=%s", o.Point)
			}
			if o.Time != 0 {
				fmt.Fprintf(&out, " time=+%v", time.Unix(0, o.Time).Sub(zero))
			}
			fmt.Fprintln(&out)
		}
		if f := e.Failed; f != nil {
			fmt.Fprintf(&out, "> no point: %v\n", f)
		}
		if m := e.Commit; m != nil {
			fmt.Fprintf(&out, "> point %s of %s at +%v frozen=%v skew=%v took=%v:", m.ID, m.Group, time.Unix(0, m.Time).Sub(zero), time.Duration(m.Frozen), time.Duration(m.Skew), time.Duration(m.Took))
			for _, k := range m.Members {
				fmt.Fprintf(&out, " %s(%v)", k.Machine, time.Duration(k.Frozen))
			}
			fmt.Fprintln(&out)
		}
	}
	sc := bufio.NewScanner(bytes.NewReader(script))
	for sc.Scan() {
		line := sc.Text()
		if strings.HasPrefix(line, "> ") {
			continue
		}
		fmt.Fprintln(&out, line)
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] == "#":
		case f[0] == "begin":
			var e Effects
			b, e = Begin(Plan{ID: "abc", Group: f[1], Members: f[2:], Consistency: wire.Crash, Limit: 200 * time.Millisecond, Patience: DefaultPatience}, now)
			show(e)
		case f[0] == "at":
			d, err := time.ParseDuration(f[1])
			if err != nil {
				t.Fatal(err)
			}
			now = zero.Add(d)
		case f[0] == "tick":
			show(b.Tick(now))
		case f[0] == "cancel":
			show(b.Cancel("control is stopping"))
		default:
			r := &Report{Barrier: "abc", Machine: f[0], Stage: Stage(f[1]), Error: strings.Join(f[2:], " ")}
			if r.Stage == Go {
				r.Member, r.Frozen = cut(f[0]), 50*time.Millisecond
			}
			show(b.Report(now, r))
		}
	}
	return out.Bytes()
}

// simulated is a member as seen from outside: it may be slow or die at any moment.
type simulated struct {
	name   string
	dead   bool
	stage  Stage // the order it works on, "" if none
	frozen time.Time
	thawed bool // itself, because its bound was over
	cut    bool
}

const bound = 200 * time.Millisecond

// The network loses and delays what it wants, members die and are slow, and whatever
// happens: there is a point of all members or none, a point is only made if there was
// an instant at which all stood still, and nobody stands still beyond the bound.
func TestBarrierProperties(t *testing.T) {
	points, runs := 0, 0
	defer func() {
		t.Logf("%d of %d barriers gave a point", points, runs)
		if points == 0 || points == runs {
			t.Error("the runs are all alike: they show nothing")
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		n := rapid.IntRange(1, 64).Draw(t, "members")
		all := make([]*simulated, n)
		p := Plan{ID: "abc", Group: "g", Consistency: wire.Crash, Limit: bound, Patience: DefaultPatience}
		for i := range all {
			all[i] = &simulated{name: fmt.Sprintf("m%d", i)}
			p.Members = append(p.Members, all[i].name)
		}
		b, e := Begin(p, now)
		var allStill time.Time
		commits, fails := 0, 0
		take := func(e Effects) {
			if e.Send != nil {
				for _, m := range all {
					order(t, m, e.Send, now)
				}
				if e.Send.Stage == Go {
					allStill = now
				}
			}
			if e.Failed != nil {
				fails++
			}
			if e.Commit != nil {
				commits++
				for _, m := range all {
					if !m.cut {
						t.Fatalf("a point without a cut of %s", m.name)
					}
				}
				if len(e.Commit.Members) != n || e.Commit.Time != allStill.UnixNano() {
					t.Fatalf("marker of %d members at %d", len(e.Commit.Members), e.Commit.Time)
				}
			}
		}
		take(e)
		for steps := 0; !b.Over(); steps++ {
			if steps > 20000 {
				t.Fatal("the barrier does not end")
			}
			pass := time.Duration(rapid.IntRange(0, 4).Draw(t, "ms")) * time.Millisecond
			if rapid.IntRange(0, 199).Draw(t, "long") == 0 {
				pass = time.Second
			}
			now = now.Add(pass)
			for _, m := range all { // each thaws by itself, in time
				if !m.frozen.IsZero() && now.Sub(m.frozen) >= bound {
					m.frozen, m.thawed, m.stage = time.Time{}, true, ""
				}
			}
			if d := b.Deadline(); !now.Before(d) {
				take(b.Tick(now))
				continue
			}
			m := all[rapid.IntRange(0, n-1).Draw(t, "who")]
			switch rapid.IntRange(0, 399).Draw(t, "what") {
			case 0:
				m.dead = true
			case 1:
				take(b.Report(now, &Report{Barrier: "abc", Machine: m.name, Stage: Call, Error: "busy"}))
			case 2:
				take(b.Report(now, &Report{Barrier: "old", Machine: m.name, Stage: Go, Member: cut(m.name)}))
			case 3:
				take(b.Report(now, &Report{Barrier: "abc", Machine: "stranger", Stage: Freeze}))
			default:
				for _, m := range all { // whoever works may be done
					if rapid.IntRange(0, 9).Draw(t, "done") > 0 {
						take(answer(b, m, now))
					}
				}
			}
		}
		runs, points = runs+1, points+commits
		if commits+fails != 1 {
			t.Fatalf("%d commits, %d failures", commits, fails)
		}
		for _, m := range all {
			if !m.frozen.IsZero() && !m.dead {
				t.Fatalf("%s is still frozen after the end", m.name)
			}
		}
	})
}

func order(t *rapid.T, m *simulated, o *Order, now time.Time) {
	if m.dead {
		return // its guard thaws it at the bound, see the loop
	}
	switch o.Stage {
	case Abort:
		m.frozen, m.stage = time.Time{}, ""
	case Freeze:
		m.frozen, m.stage = now, Freeze
	default:
		m.stage = o.Stage
	}
}

// answer lets m finish what it works on.
func answer(b *Barrier, m *simulated, now time.Time) Effects {
	if m.dead || m.stage == "" {
		return Effects{}
	}
	r := &Report{Barrier: "abc", Machine: m.name, Stage: m.stage}
	m.stage = ""
	if r.Stage == Go {
		if m.frozen.IsZero() {
			r.Error = "was thawed before"
		} else {
			r.Member, r.Frozen, m.cut = cut(m.name), now.Sub(m.frozen), true
			m.frozen = time.Time{}
		}
	}
	return b.Report(now, r)
}
