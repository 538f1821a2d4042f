package streams

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var names = rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}`)

func TestSubjectsRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		machine, disk := names.Draw(r, "machine"), names.Draw(r, "disk")
		for kind, name := range map[string]string{"machine": machine, "disk": disk} {
			if err := ValidName(kind, name); err != nil {
				r.Fatal(err)
			}
		}
		p := Partition(machine, disk)
		if p < 0 || p >= Partitions {
			r.Fatalf("partition %d", p)
		}
		m, d, err := ParseChanges(ChangesSubject(machine, disk))
		if err != nil || m != machine || d != disk {
			r.Fatalf("%s/%s came back as %s/%s, %v", machine, disk, m, d, err)
		}
		if s := ChangesSubject(machine, disk); !strings.HasPrefix(s, strings.TrimSuffix(PartitionSubject(p), ">")) {
			r.Fatalf("%s is not in %s", s, PartitionSubject(p))
		}
		if s := SumsSubject(machine, disk); !strings.HasPrefix(s, strings.TrimSuffix(SumsPartition(p), ">")) {
			r.Fatalf("%s is not in %s", s, SumsPartition(p))
		}
		other := (p + rapid.IntRange(1, Partitions-1).Draw(r, "off")) % Partitions
		if _, _, err := ParseChanges(fmt.Sprintf("leeward.changes.%02d.%s.%s", other, machine, disk)); err == nil {
			r.Fatal("a disk is believed in another partition")
		}
	})
}

// The mapping is part of the public contract: these must never change.
func TestPartitionIsFixed(t *testing.T) {
	for in, want := range map[string]int{"db-1/vda": 35, "db-1/vdb": 54, "web/sda": 20, "a/b": 1} {
		machine, disk, _ := strings.Cut(in, "/")
		if got := Partition(machine, disk); got != want {
			t.Errorf("partition of %s is %d, want %d", in, got, want)
		}
	}
	n := map[int]int{}
	for i := range 6400 {
		n[Partition(fmt.Sprintf("server-%d", i/4), fmt.Sprintf("sd%c", 'a'+i%4))]++
	}
	for p := range Partitions {
		if n[p] < 50 || n[p] > 150 {
			t.Errorf("partition %d has %d of 6400 disks", p, n[p])
		}
	}
}

func TestParseChangesRefuses(t *testing.T) {
	good := ChangesSubject("a", "b")
	for _, s := range []string{
		"", "leeward", good + ".c", strings.TrimSuffix(good, ".b"), strings.Replace(good, "leeward", "x", 1),
		strings.Replace(good, "changes", "sums", 1), "leeward.changes.xx.a.b", "leeward.changes.-1.a.b",
		"leeward.changes.1.a.b", "leeward.changes.001.a.b", "leeward.changes.+1.a.b", "leeward.changes.02.a.b",
		ChangesSubject("", "b"), ChangesSubject("*", "b"), ChangesSubject("a", ">"),
	} {
		if m, d, err := ParseChanges(s); err == nil {
			t.Errorf("%q is understood as %s/%s", s, m, d)
		}
	}
}

func TestValidName(t *testing.T) {
	for _, s := range []string{"", "-a", "_a", "a.b", "a b", "a/b", "..", "*", ">", "ä", "a\x00", strings.Repeat("a", MaxName+1)} {
		if ValidName("machine", s) == nil {
			t.Errorf("%q is a valid name", s)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{}, {Replicas: 2, ChangesBytes: 1 << 30}, {Replicas: 1, ChangesBytes: 1 << 20}} {
		if c.Validate() == nil {
			t.Errorf("%+v is valid", c)
		}
	}
}
