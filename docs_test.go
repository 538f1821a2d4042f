package main

import (
	"os"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/streams/docstest"
)

// Every command that README and docs show is one that the program knows, with flags that
// it has and as many arguments as it takes.
func TestCommandsInDocs(t *testing.T) {
	all := docstest.Commands(t, ".", "leeward")
	if len(all) < 50 {
		t.Fatalf("found %d commands in the docs: are they still in blocks?", len(all))
	}
	for _, c := range all {
		if err := cli.Parse(options(c.Args)); err != nil {
			t.Errorf("%s: leeward %s: %v", c.Where, strings.Join(c.Args, " "), err)
		}
	}
	// It can fail.
	for _, bad := range []string{"no such", "status --no-such-flag", "failover test", "point show a b", "vault"} {
		if err := cli.Parse(options(strings.Fields(bad))); err == nil {
			t.Errorf("leeward %s passed", bad)
		}
	}
}

// Every alert has a section in the runbook, and links to it.
func TestAlertsHaveARunbook(t *testing.T) {
	rules, err := os.ReadFile("deploy/prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile("docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(rules)) {
		_, name, ok := strings.Cut(line, "- alert: ")
		if !ok {
			continue
		}
		n++
		name = strings.TrimSpace(name)
		if !strings.Contains(string(runbook), "\n### "+name+"\n") {
			t.Errorf("docs/runbook.md has no section for %s", name)
		}
		if !strings.Contains(string(rules), "docs/runbook.md#"+strings.ToLower(name)+"\n") {
			t.Errorf("%s links to no section of the runbook", name)
		}
	}
	if n < 5 {
		t.Errorf("found %d alerts", n)
	}
}

func options(args []string) cli.Options {
	return programOptions(args, os.Getenv)
}
