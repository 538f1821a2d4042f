package main

import (
	"os"
	"path/filepath"
	"regexp"
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

// Every document of the contract is held against its schema by a test, wherever that is: the
// documents are those that cli.Documents lists, which docs/ops/cli.md lists too.
func TestEveryDocumentHasATest(t *testing.T) {
	var tests strings.Builder
	for _, dir := range []string{".", "control/cli", "embed/appliance"} {
		names, err := filepath.Glob(dir + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(b)
		}
	}
	all := cli.Documents()
	if len(all) < 50 {
		t.Fatalf("found %d documents", len(all))
	}
	held := func(name string) bool {
		return regexp.MustCompile(`\b(?:print\(|asPromised\(t, |DocumentSchema\()` + regexp.QuoteMeta(`"`+name+`"`)).MatchString(tests.String())
	}
	for _, name := range all {
		if !held(name) {
			t.Errorf("%s is promised, and no test holds what is printed against its schema", name)
		}
	}
	if held("leeward.no-such.v1") {
		t.Error("a document that is not there has a test")
	}
}

func options(args []string) cli.Options {
	return programOptions(args, os.Getenv)
}
