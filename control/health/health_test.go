package health

import (
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func fine() Machine {
	return Machine{
		Name: "db", Since: ago(time.Hour), Point: ago(20 * time.Second),
		Disks: []Disk{{Name: "sda", Heartbeat: ago(3 * time.Second), Receipt: ago(10 * time.Second)}},
	}
}

func TestCheck(t *testing.T) {
	cases := []struct {
		name   string
		change func(*Machine)
		level  Level
		codes  string // space separated, worst first
		cause  string // part of the first issue's cause
	}{
		{"fine", func(*Machine) {}, Healthy, "", ""},
		{"rpo at the threshold", func(m *Machine) { m.Point = ago(5 * time.Minute) }, Healthy, "", ""},
		{"rpo beyond", func(m *Machine) { m.Point = ago(5*time.Minute + time.Second) }, Warning, "rpo-exceeded", "5m01s old, the threshold is 5m00s"},
		{"rpo at four times", func(m *Machine) { m.Point = ago(20 * time.Minute) }, Warning, "rpo-exceeded", "20m00s"},
		{"rpo far beyond", func(m *Machine) { m.Point = ago(72 * time.Hour) }, Critical, "rpo-exceeded", "3 days old"},
		{"no point yet", func(m *Machine) { m.Point = time.Time{} }, Warning, "no-point", "no recovery point"},
		{"no point, nothing moves", func(m *Machine) {
			m.Point = time.Time{}
			m.Disks[0].Receipt = time.Time{}
		}, Critical, "no-point", ""},
		{"no point, new machine", func(m *Machine) {
			m.Point, m.Since, m.Disks[0].Receipt = time.Time{}, ago(time.Minute), time.Time{}
		}, Warning, "no-point", ""},
		{"silent", func(m *Machine) {
			m.Disks[0].Heartbeat, m.Disks[0].Receipt = ago(2*time.Minute), ago(3*time.Minute)
		}, Warning, "no-heartbeat", "silent for 2m00s"},
		{"a receipt is a sign of life", func(m *Machine) { m.Disks[0].Heartbeat = time.Time{} }, Healthy, "", ""},
		{"lost", func(m *Machine) {
			m.Disks[0].Heartbeat, m.Disks[0].Receipt, m.Point = ago(16*time.Minute), ago(17*time.Minute), ago(17*time.Minute)
		}, Critical, "no-heartbeat rpo-exceeded", "silent for 16m00s"},
		{"resync", cond(Resync, 1), Warning, "resync", "running for 1m00s: because"},
		{"store", cond(StoreFailed, 2), Critical, "store-failed", "refused writes"},
		{"fenced", cond(Fenced, 1), Critical, "fenced", "because"},
		{"fork", cond(Fork, 1), Critical, "fork", "because"},
		{"two points given up", cond(PointAborted, 2), Healthy, "", ""},
		{"points given up", cond(PointAborted, 3), Warning, "point-aborted", "3 recovery points in a row"},
		{"one abandoned point", cond(Abandoned, 1), Healthy, "", ""},
		{"abandoned points", cond(Abandoned, 5), Warning, "point-abandoned", "5 recovery points in a row"},
		{"unknown kind", cond("tea", 9), Healthy, "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := fine()
			c.change(&m)
			level, issues := Check(now, m, Default())
			var codes []string
			for _, i := range issues {
				codes = append(codes, i.Code)
				if i.Machine != "db" || i.Cause == "" || i.Level == Critical && i.Remedy == "" {
					t.Errorf("issue says too little: %+v", i)
				}
			}
			if level != c.level || strings.Join(codes, " ") != c.codes {
				t.Errorf("got %s %q, want %s %q", level, codes, c.level, c.codes)
			}
			if c.cause != "" && (len(issues) == 0 || !strings.Contains(issues[0].Cause, c.cause)) {
				t.Errorf("issues %+v do not say %q", issues, c.cause)
			}
		})
	}
}

func cond(kind string, count int) func(*Machine) {
	return func(m *Machine) {
		m.Conditions = []Condition{{Kind: kind, Since: ago(time.Minute), Count: count, What: "because"}}
	}
}

func TestWorstFirst(t *testing.T) {
	m := fine()
	m.Point = ago(6 * time.Minute)
	m.Conditions = []Condition{{Kind: Resync, Since: ago(time.Minute), Count: 1}, {Kind: Fenced, Since: ago(time.Minute), Count: 1, What: "x"}}
	level, issues := Check(now, m, Default())
	if level != Critical || len(issues) != 3 || issues[0].Code != Fenced {
		t.Errorf("got %s %+v", level, issues)
	}
}

func TestSilentDisksAreOneIssue(t *testing.T) {
	m := fine()
	m.Disks = []Disk{{Name: "sda", Heartbeat: ago(2 * time.Minute)}, {Name: "sdb", Heartbeat: ago(3 * time.Minute)}}
	if _, issues := Check(now, m, Default()); len(issues) != 1 || issues[0].Disk != "" || !strings.Contains(issues[0].Cause, "3m00s") {
		t.Errorf("got %+v", issues)
	}
}

// A machine that is protected at the recovery site has points from there, and no agent.
func TestCopyIsJudgedByItsPoints(t *testing.T) {
	m := fine()
	m.Copy, m.Trouble, m.App = true, "the old agent is fenced", ago(1000*time.Hour)
	m.Disks = []Disk{{Name: "sda", Heartbeat: ago(time.Hour), Receipt: ago(time.Hour)}}
	m.Conditions = []Condition{{Kind: Fenced, Since: ago(time.Minute), Count: 3, What: "the old home"}}
	th := Default()
	th.App = time.Hour
	if level, issues := Check(now, m, th); level != Healthy || len(issues) != 0 {
		t.Errorf("got %s %+v", level, issues)
	}
	m.Point = ago(6 * time.Minute)
	m.Conditions = append(m.Conditions, Condition{Kind: StoreFailed, Since: ago(time.Minute), Count: 1, What: "full"})
	level, issues := Check(now, m, th)
	if level != Critical || len(issues) != 2 || issues[0].Code != StoreFailed || issues[1].Code != "rpo-exceeded" || strings.Contains(issues[1].Remedy, "leeward-agent") {
		t.Errorf("got %s %+v", level, issues)
	}
}

func TestThresholds(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Thresholds{{}, {RPO: time.Minute}, {RPO: time.Minute, Heartbeat: 2, HeartbeatLost: 1}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
