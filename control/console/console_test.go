package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/control/enrol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var sample = regexp.MustCompile(`^([a-z_][a-z0-9_]*)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+\})? (\S+)$`)

// parse reads Prometheus' text format, strictly, and returns the value of every
// sample by its name and labels.
func parse(t *testing.T, text string) map[string]float64 {
	t.Helper()
	out, kinds := map[string]float64{}, map[string]bool{}
	if text != "" && !strings.HasSuffix(text, "\n") {
		t.Error("the last line does not end")
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			f := strings.Fields(rest)
			if len(f) != 2 || f[1] != "gauge" && f[1] != "counter" || kinds[f[0]] {
				t.Errorf("type: %s", line)
			}
			if strings.HasSuffix(f[0], "_total") != (f[1] == "counter") {
				t.Errorf("only counters end in _total: %s", line)
			}
			kinds[f[0]] = true
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil || !kinds[m[1]] {
			t.Errorf("no sample of a known metric: %q", line)
			continue
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if _, twice := out[m[1]+m[2]]; err != nil || twice {
			t.Errorf("%q: %v, twice %v", line, err, twice)
		}
		out[m[1]+m[2]] = v
	}
	return out
}

func TestTextFormat(t *testing.T) {
	var b bytes.Buffer
	err := write(&b, []Family{
		{Name: "b", Help: "two\nlines \\ here", Kind: Gauge, Samples: []Sample{{Labels: []string{"machine", "a\"b\\c\nd\xff", "disk", "x"}, Value: 0.25}}},
		Of("a_total", "counts", Counter, 1e18),
		{Name: "b", Kind: Gauge, Samples: []Sample{{Labels: []string{"machine", "other"}, Value: math.Inf(1)}}},
		Of("c", "", Gauge, math.NaN()),
	})
	if err != nil {
		t.Fatal(err)
	}
	got := parse(t, b.String())
	for k, want := range map[string]float64{"a_total": 1e18, `b{machine="a\"b\\c\nd` + "\uFFFD" + `",disk="x"}`: 0.25, `b{machine="other"}`: math.Inf(1)} {
		if v, ok := got[k]; !ok || v != want {
			t.Errorf("%s = %v, %v", k, v, ok)
		}
	}
	if !math.IsNaN(got["c"]) || len(got) != 4 {
		t.Errorf("%v", got)
	}
}

func start(t *testing.T, c Config) *Server {
	t.Helper()
	c.Listen = "127.0.0.1:0"
	if c.Enrol == nil {
		c.Enrol = func() (*enrol.Service, error) { return nil, errors.New("no keys here") }
	}
	s, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestPort(t *testing.T) {
	var ready error
	s := start(t, Config{
		Ready: func(context.Context) error { return ready },
		Metrics: []func(context.Context) ([]Family, error){
			func(context.Context) ([]Family, error) { return []Family{Of("x", "", Gauge, 1)}, nil },
			func(context.Context) ([]Family, error) { return []Family{Of("y", "", Gauge, 2)}, errors.New("half") },
		},
	})
	if code, text := get(t, s.URL()+"/readyz"); code != 200 || text != "ready\n" {
		t.Errorf("%d %s", code, text)
	}
	ready = errors.New("the disk is full")
	if code, text := get(t, s.URL()+"/readyz"); code != 503 || text != "the disk is full\n" {
		t.Errorf("%d %s", code, text)
	}
	if code, _ := get(t, s.URL()+"/healthz"); code != 200 {
		t.Errorf("%d", code)
	}
	code, text := get(t, s.URL()+"/metrics")
	got := parse(t, text)
	if code != 200 || got["x"] != 1 || got["y"] != 2 || got["leeward_metrics_complete"] != 0 {
		t.Errorf("%d %v", code, got)
	}
	for body, want := range map[string]int{"": 400, "{": 400, `{"tokn":"x"}`: 400, `{"token":"` + strings.Repeat("x", maxRequest) + `"}`: 400, `{"token":"x"}`: 503} {
		r, err := http.Post(s.URL()+"/v1/enrol", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%.30s: %d, want %d", body, r.StatusCode, want)
		}
	}
	for _, path := range []string{"/", "/v1/", "/metrics/x", "/debug/pprof/"} {
		if code, _ := get(t, s.URL()+path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
}

// Metrics are for this machine, and for who has the token.
func TestWhoReadsMetrics(t *testing.T) {
	s := &Server{c: Config{Token: "secret"}}
	for _, c := range []struct {
		from, auth string
		want       bool
	}{
		{"127.0.0.1:5", "", true}, {"[::1]:5", "", true}, {"192.0.2.1:5", "", false}, {"192.0.2.1:5", "Bearer secret", true},
		{"192.0.2.1:5", "Bearer secre", false}, {"192.0.2.1:5", "Bearer ", false}, {"192.0.2.1:5", "secret", false}, {"", "", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.RemoteAddr = c.from
		if c.auth != "" {
			r.Header.Set("Authorization", c.auth)
		}
		if got := s.mayRead(r); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	s.c.Token = ""
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Authorization", "Bearer ")
	if s.mayRead(r) {
		t.Error("an empty token opens the door")
	}
}

func TestPlainStaysHere(t *testing.T) {
	for _, l := range []string{"0.0.0.0:1", ":1", "192.0.2.1:1", "example.com:1", "[::]:1", "x"} {
		if _, err := Start(Config{Listen: l}); err == nil || !strings.Contains(err.Error(), "--manage is "+strconv.Quote(l)) && !strings.Contains(err.Error(), "--manage is "+l) {
			t.Errorf("%s: %v", l, err)
		}
	}
}
