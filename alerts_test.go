package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// firing is what makes each alert fire, beside a site where all is well.
var firing = map[string][]string{
	"LeewardDown":            {`-leeward_build_info`},
	"LeewardHalfBlind":       {`leeward_metrics_complete 0`},
	"LeewardMachineCritical": {`leeward_health{machine="web",level="critical"} 1`},
	"LeewardRPO":             {issueOf("rpo-exceeded"), `leeward_rpo_seconds{machine="web"} 400`},
	"LeewardAgentAway":       {issueOf("no-heartbeat")},
	"LeewardStoreDown":       {issueOf("store-failed")},
	"LeewardStreamFull":      {`leeward_stream_pending_bytes{stream="CHANGES"} 95`},
	"LeewardRefusedLinks":    {`leeward_process_refused_total 0+1`},
	"LeewardNeverTested":     {`leeward_failover_test_last_timestamp_seconds{machine="web"} -20000000`},
	"LeewardNoPoint":         {issueOf("no-point")},
	"LeewardTwoWriters":      {issueOf("fenced"), issueOf("fork")},
	"LeewardFailoverFailed":  {issueOf("failover-failed")},
	"LeewardCopyDown":        {issueOf("copy-down")},
	"LeewardLifeStuck":       {issueOf("life-cycle-stuck")},
	"LeewardBusRefuses":      {issueOf("bus-refuses")},
	"LeewardPointsAborted":   {issueOf("point-aborted"), issueOf("group-aborted"), issueOf("point-abandoned")},
	"LeewardAppOverdue":      {issueOf("app-overdue")},
	"LeewardResync":          {issueOf("resync")},
	"LeewardStandbyBehind":   {issueOf("standby-behind")},
}

// step is how often rules are looked at here: each look is written to a disk.
const step = "5m"

// well is a site where nothing is wrong.
var well = []string{
	`leeward_build_info{version="1"} 1`, `leeward_metrics_complete 1`, `leeward_vault_up 1`, `leeward_process_refused_total 0`,
	`leeward_process_malformed_total 0`, `leeward_rpo_seconds{machine="web"} 5`, `leeward_agent_up{machine="web",disk="sda"} 1`,
	`leeward_health{machine="web",level="critical"} 0`, `leeward_stream_pending_bytes{stream="CHANGES"} 5`, `leeward_stream_limit_bytes{stream="CHANGES"} 100`,
	`leeward_failover_test_last_timestamp_seconds{machine="web"} 0`,
}

func issueOf(code string) string {
	return fmt.Sprintf(`leeward_issue{machine="web",code=%q,level="warning"} 1`, code)
}

// Every reason for which control calls a machine unhealthy has an alert.
func TestEveryHealthCauseHasAnAlert(t *testing.T) {
	var all strings.Builder
	for _, series := range firing {
		all.WriteString(strings.Join(series, "\n") + "\n")
	}
	codes := healthCodes(t)
	for _, c := range codes {
		if !strings.Contains(all.String(), issueOf(c)+"\n") {
			t.Errorf("the cause %s has no alert: deploy/prometheus/rules.yaml, docs/runbook.md and the table firing", c)
		}
	}
	if len(codes) < 16 {
		t.Errorf("only %d causes were found: %v", len(codes), codes)
	}
}

// healthCodes reads the codes of issues out of the source that makes them.
func healthCodes(t *testing.T) []string {
	t.Helper()
	found := map[string]bool{}
	files, err := filepath.Glob("control/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, "control/health/health.go") {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`(?:Code: |issue\(|kindStandby = |(?m)^\t(?:Resync|Fenced|Fork|GroupAborted|PointAborted|StoreFailed|Abandoned) += )"([a-z-]+)"`).FindAllStringSubmatch(string(b), -1) {
			found[m[1]] = m[1] != "test" // of a test notification
		}
	}
	maps.DeleteFunc(found, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(found))
}

// Prometheus' own tool takes the rules, and each alert fires when it should and no other
// does; where all is well none does.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	tool := findPromtool(t)
	rules, err := filepath.Abs("deploy/prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, "check", "rules", rules).CombinedOutput(); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, out)
	}
	var file struct {
		Groups []struct{ Rules []struct{ Alert string } }
	}
	b, err := os.ReadFile(rules)
	if err == nil {
		err = yaml.Unmarshal(b, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	var tests []any
	add := func(alert string, series ...string) {
		exp := []any{}
		if alert != "" {
			exp = append(exp, map[string]any{"labels": fmt.Sprintf("{alertname=%q}", alert), "value": 1})
		}
		until := "3h" // longer than any alert waits, but for that of a resync
		if alert == "LeewardResync" {
			until = "7h"
		}
		tests = append(tests, map[string]any{
			"name": strings.Join(append([]string{alert}, series...), " "), "interval": step, "input_series": inputs(series),
			"promql_expr_test": []any{map[string]any{"expr": `group by (alertname) (ALERTS{alertstate="firing"})`, "eval_time": until, "exp_samples": exp}},
		})
	}
	add("")
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			for _, series := range firing[r.Alert] {
				if strings.HasPrefix(series, "leeward_rpo_seconds") {
					continue // it goes with the issue
				}
				more := []string{series}
				if r.Alert == "LeewardRPO" {
					more = firing[r.Alert]
				}
				add(r.Alert, more...)
			}
			if len(firing[r.Alert]) == 0 {
				t.Errorf("nothing makes %s fire: add it to the table firing", r.Alert)
			}
		}
	}
	for _, old := range []string{`leeward_rpo_seconds{machine="web"} 1000`, `leeward_agent_up{machine="web",disk="sda"} 0`, `leeward_vault_up 0`, `leeward_process_malformed_total 0+1`} {
		add(map[byte]string{'r': "LeewardRPO", 'a': "LeewardAgentAway", 'v': "LeewardStoreDown", 'p': "LeewardRefusedLinks"}[old[len("leeward_")]], old)
	}
	run := func(rules string, tests []any) ([]byte, error) {
		text, err := yaml.Marshal(map[string]any{"rule_files": []string{rules}, "evaluation_interval": step, "tests": tests})
		name := filepath.Join(t.TempDir(), "tests.yaml")
		if err == nil {
			err = os.WriteFile(name, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		return exec.CommandContext(ctx, tool, "test", "rules", name).CombinedOutput()
	}
	if out, err := run(rules, tests); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
	// It can fail.
	only := tests[slices.IndexFunc(tests, func(x any) bool { return strings.HasPrefix(x.(map[string]any)["name"].(string), "LeewardNoPoint ") }):][:1]
	wrong := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(wrong, bytes.Replace(b, []byte(`"no-point"`), []byte(`"no-pint"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(wrong, only); err == nil || !bytes.Contains(out, []byte("LeewardNoPoint")) {
		t.Errorf("rules that do not know a cause passed: %v\n%s", err, out)
	}
}

// inputs are the series of a site where all is well, but for those given; -name takes one away.
func inputs(series []string) (all []any) {
	seen := map[string]bool{}
	for _, s := range append(slices.Clone(series), well...) {
		if gone, ok := strings.CutPrefix(s, "-"); ok {
			seen[gone] = true
			continue
		}
		at := strings.LastIndexByte(s, ' ')
		name, value := s[:at], s[at+1:]
		base, _, _ := strings.Cut(name, "{")
		if seen[name] || seen[base] {
			continue
		}
		seen[name] = true
		if !strings.Contains(value, "+") {
			value += "+0"
		}
		all = append(all, map[string]any{"series": name, "values": value + "x100"})
	}
	return all
}

// findPromtool finds Prometheus' tool: deploy/ci/need.sh takes it out of Debian's package,
// which is not installed, for it would start a server.
func findPromtool(t *testing.T) string {
	t.Helper()
	if p, err := exec.LookPath("promtool"); err == nil {
		return p
	}
	if dir, err := os.UserCacheDir(); err == nil {
		if p := filepath.Join(dir, "leeward", "promtool"); isFile(p) {
			return p
		}
	}
	if os.Getuid() == 0 || os.Getenv("CI") != "" {
		t.Fatal("MISSING: promtool: run deploy/ci/need.sh test")
	}
	t.Skip("MISSING: promtool: whether the alerts fire was not seen")
	return ""
}

func isFile(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular()
}
