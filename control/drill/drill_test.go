package drill

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/policy"
)

var update = flag.Bool("update", false, "write the golden report anew")

func TestNext(t *testing.T) {
	loc := time.FixedZone("x", 2*3600)
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", s, loc)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	week := policy.Duration(7 * 24 * time.Hour)
	for _, c := range []struct {
		name          string
		d             Drill
		last, written string
		want          string
	}{
		{"never, no hour: at once", Drill{Every: week}, "", "2026-11-01 12:00", "2026-11-01 12:00"},
		{"a week later", Drill{Every: week}, "2026-11-02 12:00", "2026-11-01 12:00", "2026-11-09 12:00"},
		{"never, hour still comes today", Drill{Every: week, At: "23:30"}, "", "2026-11-01 12:00", "2026-11-01 23:30"},
		{"never, hour is over today", Drill{Every: week, At: "03:00"}, "", "2026-11-01 12:00", "2026-11-02 03:00"},
		{"does not drift", Drill{Every: week, At: "03:00"}, "2026-11-02 03:04", "2026-11-01 12:00", "2026-11-09 03:00"},
		{"run by hand in the afternoon", Drill{Every: week, At: "03:00"}, "2026-11-02 17:00", "2026-11-01 12:00", "2026-11-10 03:00"},
		{"daily", Drill{Every: policy.Duration(24 * time.Hour), At: "03:00"}, "2026-11-02 03:00", "2026-11-01 12:00", "2026-11-03 03:00"},
	} {
		last := time.Time{}
		if c.last != "" {
			last = at(c.last)
		}
		if got := c.d.Next(last.UTC(), at(c.written).UTC(), loc); !got.Equal(at(c.want)) {
			t.Errorf("%s: %s, want %s", c.name, got.In(loc), c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	good := Drill{Name: "weekly", Plan: "shop", Every: policy.Duration(MinEvery)}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for what, d := range map[string]Drill{
		"drill name":  {Name: "a b", Plan: "shop", Every: good.Every},
		"plan name":   {Name: "a", Plan: "", Every: good.Every},
		"every is":    {Name: "a", Plan: "p", Every: policy.Duration(time.Minute)},
		"time of day": {Name: "a", Plan: "p", Every: policy.Duration(48 * time.Hour), At: "25:00"},
		"cannot hold": {Name: "a", Plan: "p", Every: policy.Duration(2 * time.Hour), At: "03:00"},
	} {
		if err := d.Validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// example is a report of a run with a machine that lives, one that does not, and a script.
func example() *Report {
	at := time.Date(2026, 11, 30, 3, 0, 0, 5, time.UTC)
	run := &plan.Run{ID: "drill-1", Plan: "shop", Version: 7, State: plan.RunFailed, Error: "web/machine/web: no sign of life <&>", Started: at, Ended: at.Add(time.Minute), Tasks: []plan.Task{
		{ID: "data/machine/db", Machine: &plan.Machine{Machine: "db"}, State: plan.Done},
		{ID: "data/after/1", Action: &plan.Action{Name: "warm", Script: &plan.Script{Run: "true"}}, State: plan.Done, Result: "ok"},
		{ID: "web/machine/web", Machine: &plan.Machine{Machine: "web"}, State: plan.Failed, Error: "no sign of life <&>"},
	}}
	job := failover.Job{ID: "tf-2", Point: "p9", PointTime: at.Add(-5 * time.Second), Consistency: "app", Started: at,
		Request: failover.Request{Machine: "db"}, Result: &failover.Result{Alive: true, Evidence: []string{"login:"}, BootSeconds: 4.5, RTOSeconds: 6, VaultReadBytes: 1 << 20}}
	old := job
	old.ID, old.Started, old.Result = "tf-1", at.Add(-time.Second), nil
	r := NewReport(&Drill{Name: "weekly", Plan: "shop"}, run, []failover.Job{job, old}, func(j *failover.Job) []byte { return []byte("PNG of " + j.ID) })
	r.Vault, r.Version = "v", "1.0.0"
	return r
}

func TestReport(t *testing.T) {
	r := example()
	if r.Passed || !strings.Contains(r.Why, "no sign of life") || len(r.Machines) != 2 || len(r.Steps) != 1 {
		t.Fatalf("%+v", r)
	}
	db, web := r.Machines[0], r.Machines[1]
	if db.Job != "tf-2" || !db.Alive || db.AgeSeconds != 5 || string(db.Screen) != "PNG of tf-2" || db.ScreenSHA == "" || db.Point != "p9" {
		t.Errorf("db %+v", db)
	}
	if web.Alive || web.Error == "" || web.Job != "" {
		t.Errorf("web %+v", web)
	}
}

// Whatever is changed in a signed report is seen; formatting it anew is not a change.
func TestSignature(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	s, err := Sign(key, example())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(s, "", "   ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.json")
	if *update {
		if err := os.WriteFile(golden, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range [][]byte{b, kept, bytes.ReplaceAll(b, []byte(`\u003c\u0026\u003e`), []byte(`<&>`))} {
		got, err := Parse(doc)
		if err != nil {
			t.Fatal(err)
		}
		if err := got.Verify(s.Key); err != nil {
			t.Error(err)
		}
	}
	for _, change := range []func(*Signed){
		func(s *Signed) { s.Report.Passed = true },
		func(s *Signed) { s.Report.Machines[1].Alive = true },
		func(s *Signed) { s.Report.Machines[0].Screen[0] ^= 1 },
		func(s *Signed) { s.Report.Machines[0].PointTime = s.Report.Machines[0].PointTime.Add(1) },
		func(s *Signed) { s.Signature = "" },
		func(s *Signed) { s.Key = s.Key[2:] },
	} {
		x, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		change(x)
		if err := x.Verify(""); !errors.Is(err, ErrForged) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	other, err := Sign(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize)), example())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Verify(s.Key); !errors.Is(err, ErrForged) {
		t.Errorf("signed by another: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile(filepath.Join("testdata", "report.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Parse(b); err == nil {
			_ = s.Verify("") // must not panic
		}
	})
}
