package appliance

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// insecure is a client that asks nobody who the server is: what is tested is what it
// says.
func insecure() *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
}

// scrape reads the metrics of an appliance until all its parts answer.
func scrape(t *testing.T, dir, url string) string {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(dir, "keys", "metrics.token"))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; pause(t) {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		r, err := insecure().Do(q)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nleeward_metrics_complete 1\n") && strings.Contains(string(b), "# TYPE leeward_rpo_seconds ") {
			return string(b)
		}
		if time.Now().After(end) {
			t.Fatalf("status %d: %s", r.StatusCode, b)
		}
	}
}

var (
	metric = regexp.MustCompile(`\b(leeward|go|process)_[a-z_]+\b`)
	typed  = regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`)
	quoted = regexp.MustCompile(`"[^"]*"`)
)

// Every metric that the dashboard and the alerts name is one that an appliance has, and
// is used as what it is.
func TestDashboardAndAlertsNameWhatThereIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url, _, _ := offBox(t, dir, &locked{})
	kinds := map[string]string{}
	for _, m := range typed.FindAllStringSubmatch(scrape(t, dir, url), -1) {
		kinds[m[1]] = m[2]
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	read := func(name string, decode func([]byte) error) {
		b, err := os.ReadFile(filepath.Join("..", "..", "deploy", name))
		if err == nil {
			err = decode(b)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	read("grafana/leeward.json", func(b []byte) error { return json.Unmarshal(b, &dashboard) })
	read("prometheus/rules.yaml", func(b []byte) error { return yaml.Unmarshal(b, &rules) })
	exprs := map[string][]string{}
	for _, p := range dashboard.Panels {
		for _, x := range p.Targets {
			exprs["panel "+p.Title] = append(exprs["panel "+p.Title], x.Expr)
		}
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			exprs["alert "+r.Alert] = append(exprs["alert "+r.Alert], r.Expr)
		}
	}
	if len(exprs) < 25 {
		t.Fatalf("only %d panels and alerts were read", len(exprs))
	}
	for where, all := range exprs {
		for _, x := range all {
			names := metric.FindAllString(quoted.ReplaceAllString(x, ""), -1)
			if len(names) == 0 {
				t.Errorf("%s names no metric: %s", where, x)
			}
			for _, n := range names {
				base := strings.TrimSuffix(n, "_bucket")
				kind, ok := kinds[base]
				switch {
				case !ok:
					t.Errorf("%s names %s, which no appliance has", where, n)
				case (kind == "histogram") != (base != n):
					t.Errorf("%s takes %s for something else than a %s", where, n, kind)
				case kind == "counter" && !strings.Contains(x, "rate(") && !strings.Contains(x, "increase("):
					t.Errorf("%s shows the counter %s as it is", where, n)
				}
			}
		}
	}
}
