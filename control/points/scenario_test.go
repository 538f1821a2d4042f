package points

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

var update = flag.Bool("update", false, "rewrite the expected output of testdata/*.txt")

// A scenario is a list of commands; lines that start with "> " are what the fold
// decided. Commands:
//
//	marker POINT GROUP [app] MACHINE/DISK@EPOCH:NUMBER...
//	receipt MACHINE/DISK@EPOCH:NUMBER
//	holds MACHINE/DISK@EPOCH:NUMBER POINT GROUP [crash [SIZE]]   the vault now holds a cut
//	answer                                                the vault answers every question so far
//	fail                                                  the vault fails every question so far
//	listed POINT
//	look LIMIT
//	recheck | pending | unlisted
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
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal(got, want) {
				t.Errorf("the decisions differ, got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

type lab struct {
	fold  *Fold
	holds map[Ask]*vault.CutInfo // keyed by Disk and At only
	asks  []Ask
	out   bytes.Buffer
}

func replay(t *testing.T, script []byte) []byte {
	l := &lab{fold: New(), holds: map[Ask]*vault.CutInfo{}}
	sc := bufio.NewScanner(bytes.NewReader(script))
	for sc.Scan() {
		line := sc.Text()
		if strings.HasPrefix(line, "> ") {
			continue
		}
		fmt.Fprintln(&l.out, line)
		if f := strings.Fields(line); len(f) > 0 && f[0] != "#" {
			l.run(t, f)
		}
	}
	return l.out.Bytes()
}

func (l *lab) run(t *testing.T, f []string) {
	switch f[0] {
	case "marker":
		l.show(l.fold.Marker(marker(t, f[1], f[2], f[3:])))
	case "receipt":
		id, at := place(t, f[1])
		l.show(l.fold.Receipt(&wire.Receipt{Machine: id.Machine, Disk: id.Disk, Epoch: at.Epoch, Number: at.Number}))
	case "holds":
		id, at := place(t, f[1])
		c := &vault.CutInfo{Disk: id, At: at, Cut: vault.Cut{Point: f[2], Group: f[3], Size: 4096, Consistency: "app"}}
		if len(f) > 4 {
			c.Consistency = f[4]
		}
		if len(f) > 5 {
			if _, err := fmt.Sscan(f[5], &c.Size); err != nil {
				t.Fatal(err)
			}
		}
		l.holds[Ask{Disk: id, At: at}] = c
	case "answer", "fail":
		asks := l.asks
		l.asks = nil
		for _, a := range asks {
			if f[0] == "fail" {
				l.fold.Failed(a)
				continue
			}
			l.show(l.fold.Answer(a, l.holds[Ask{Disk: a.Disk, At: a.At}]))
		}
	case "listed":
		l.fold.Listed(f[1])
	case "recheck":
		l.show(l.fold.Recheck())
	case "look":
		limit, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		l.show(l.fold.Look(limit))
	case "unlisted":
		l.show(Decisions{List: l.fold.Unlisted()})
	case "pending":
		fmt.Fprintf(&l.out, "> %d pending\n", l.fold.Pending())
	default:
		t.Fatalf("unknown command %q", f[0])
	}
}

func (l *lab) show(d Decisions) {
	for _, a := range d.Ask {
		fmt.Fprintf(&l.out, "> ask %s %s@%d:%d decisive=%v\n", a.Point, a.Disk, a.At.Epoch, a.At.Number, a.Decisive)
	}
	for _, p := range d.List {
		fmt.Fprintf(&l.out, "> list %s %s %s:", p.ID, p.Group, p.Consistency)
		for _, m := range p.Machines {
			for _, k := range m.Disks {
				fmt.Fprintf(&l.out, " %s/%s@%d:%d", m.Machine, k.Disk, k.At.Epoch, k.At.Number)
			}
		}
		fmt.Fprintln(&l.out)
	}
	for _, a := range d.Abandon {
		fmt.Fprintf(&l.out, "> abandon %s expected=%v: %s\n", a.Point, a.Expected, a.Reason)
	}
	l.asks = append(l.asks, d.Ask...)
}

func marker(t *testing.T, id, group string, rest []string) *wire.Marker {
	m := &wire.Marker{ID: id, Group: group, Consistency: wire.Crash}
	if len(rest) > 0 && rest[0] == "app" {
		m.Consistency, rest = wire.App, rest[1:]
	}
	for _, r := range rest {
		id, at := place(t, r)
		cut := wire.DiskCut{Disk: id.Disk, Epoch: at.Epoch, Number: at.Number, Size: 4096}
		if n := len(m.Members); n > 0 && m.Members[n-1].Machine == id.Machine {
			m.Members[n-1].Disks = append(m.Members[n-1].Disks, cut)
			continue
		}
		m.Members = append(m.Members, wire.Member{Machine: id.Machine, Disks: []wire.DiskCut{cut}})
	}
	return m
}

func place(t *testing.T, s string) (vault.DiskID, vault.Position) {
	machine, rest, ok1 := strings.Cut(s, "/")
	disk, at, ok2 := strings.Cut(rest, "@")
	var p vault.Position
	if _, err := fmt.Sscanf(at, "%d:%d", &p.Epoch, &p.Number); err != nil || !ok1 || !ok2 {
		t.Fatalf("%q is not machine/disk@epoch:number", s)
	}
	return vault.DiskID{Machine: machine, Disk: disk}, p
}
