package policy

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/consumers/vault"
)

func TestDefaultsAreValid(t *testing.T) {
	p := New(Default)
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestExampleIsReadAndWrittenAgain(t *testing.T) {
	text, err := os.ReadFile("testdata/policies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	gold := d.Policies[1]
	if gold.Name != "gold" || gold.PointInterval != Duration(time.Second) || gold.AppInterval != 0 || gold.Retention.Hourly != 24 ||
		len(gold.Throttle) != 2 || d.Groups[0].Members[1] != "web" {
		t.Errorf("read %+v", d)
	}
	again, err := Export(d)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(again)
	if err != nil || !reflect.DeepEqual(back, d) {
		t.Errorf("%v: written as\n%s", err, again)
	}
}

func TestRefusals(t *testing.T) {
	head := "schema: leeward.policies.v1\n"
	for text, want := range map[string]string{
		"":                                      "empty",
		"{}":                                    "schema",
		"schema: x":                             "leeward.policies.v1",
		head + "polices: []":                    "line 2: field polices not found",
		head + "policies: [{name: a, rpo: 5m}]": "field rpo not found",
		head + "policies: [{name: a, point_interval: 100ms}]":                                                            "point_interval is 100ms",
		head + "policies: [{name: a, point_interval: soon}]":                                                             "no duration",
		head + "policies: [{name: a, point_interval: 10m}]":                                                              "rpo_threshold is 5m",
		head + "policies: [{name: a, app_interval: 5s}]":                                                                 "app_interval",
		head + "policies: [{name: a, freeze_limit: 1m}]":                                                                 "freeze_limit",
		head + "policies: [{name: a, compress_at: sea}]":                                                                 "compress_at",
		head + "policies: [{name: a, capture: film}]":                                                                    "capture",
		head + "policies: [{name: a, compress_at: home}]":                                                                "compress_at",
		head + "policies: [{name: a, retention: never}]":                                                                 "retention",
		head + "policies: [{name: a.b}]":                                                                                 "policy name",
		head + "policies: [{name: default, machines: [m]}]":                                                              "default",
		head + "policies: [{name: a, machines: [m, m]}]":                                                                 "twice",
		head + "policies: [{name: a}, {name: a}]":                                                                        "two policies a",
		head + "policies: [{name: a, machines: [m]}, {name: b, machines: [m]}]":                                          "policies a and b",
		head + "policies: [{name: a, throttle: [{from: '8', to: '18:00', bytes_per_second: 100000}]}]":                   "from is",
		head + "policies: [{name: a, throttle: [{from: '08:00', to: '18:00', bytes_per_second: 1}]}]":                    "bytes_per_second",
		head + "policies: [{name: a, throttle: [{days: monday, from: '08:00', to: '18:00', bytes_per_second: 100000}]}]": "days",
		head + "groups: [{name: g, members: [a, a]}]":                                                                    "twice",
		head + "groups: [{name: g, members: [a]}, {name: h, members: [a]}]":                                              "groups g and h",
		head + "groups: [{name: a, members: [b]}, {name: h, members: [a]}]":                                              "name of a machine",
		head + "---\n" + head: "more than one document",
	} {
		d, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %+v, %v; want an error with %q", text, d, err, want)
		}
	}
}

func TestWhoseHolds(t *testing.T) {
	all := []Policy{{Name: "m", Machines: []string{"db"}}, {Name: "g", Groups: []string{"shop"}}, {Name: Default}}
	for _, c := range [][3]string{{"db", "shop", "m"}, {"db", "", "m"}, {"web", "shop", "g"}, {"", "shop", "g"}, {"web", "other", Default}, {"web", "", Default}} {
		if got := For(all, c[0], c[1]).Name; got != c[2] {
			t.Errorf("%s in %s follows %s, want %s", c[0], c[1], got, c[2])
		}
	}
	if p := For(nil, "db", ""); p.Name != Default || p.PointInterval == 0 {
		t.Errorf("without any policy: %+v", p)
	}
}

func TestWindows(t *testing.T) {
	p := Policy{Throttle: []Window{
		{Days: "mon-fri", From: "08:00", To: "18:00", Rate: 1000000},
		{Days: "fri", From: "22:00", To: "06:00", Rate: 500000},
		{Days: "sat-sun", From: "00:00", To: "24:00", Rate: 2000000},
	}}
	for when, want := range map[string]int64{
		"2026-11-30T07:59": 0, "2026-11-30T08:00": 1000000, "2026-11-30T17:59": 1000000, "2026-11-30T18:00": 0, // a Monday
		"2026-12-04T23:00": 500000, "2026-12-05T05:59": 500000, "2026-12-05T06:00": 2000000, "2026-12-06T23:59": 2000000,
		"2026-12-07T00:00": 0, "2026-12-03T23:00": 0,
	} {
		at, err := time.Parse("2006-01-02T15:04", when)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Rate(at); got != want {
			t.Errorf("at %s: %d, want %d", when, got, want)
		}
	}
}

// Whatever is valid is read as it was written.
func TestRoundTrip(t *testing.T) {
	name := rapid.StringMatching(`[a-z][a-z0-9]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		p := New(name.Draw(t, "name"))
		p.PointInterval = Duration(time.Duration(rapid.IntRange(1, 600).Draw(t, "interval")) * time.Second)
		p.RPO = p.PointInterval + Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "rpo"))
		if p.Name != Default {
			p.Machines = rapid.SliceOfNDistinct(name, 0, 5, rapid.ID[string]).Draw(t, "machines")
		}
		p.Retention = vault.Retention{All: time.Duration(rapid.IntRange(0, 100).Draw(t, "all")) * time.Minute, Daily: rapid.IntRange(0, 9).Draw(t, "daily")}
		if len(p.Machines) == 0 {
			p.Machines = nil
		}
		d := &Document{Schema: Schema, Policies: []Policy{p}}
		if d.Validate() != nil {
			t.Skip("not valid")
		}
		text, err := Export(d)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(text)
		if err != nil || !reflect.DeepEqual(back.Policies, d.Policies) {
			t.Fatalf("%v\n%s\n%+v", err, text, back)
		}
	})
}

func FuzzParse(f *testing.F) {
	text, err := os.ReadFile("testdata/policies.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		if err != nil {
			return
		}
		text, err := Export(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(text); err != nil {
			t.Fatalf("read once, not twice: %v\n%s", err, text)
		}
	})
}
