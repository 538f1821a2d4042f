package main_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sound is a small tree that breaks no rule; each case plants one violation.
var sound = map[string]string{
	"go.mod":                               "module example.org/m\n\nrequire golang.org/x/sys v0.1.0 // indirect\n",
	"NOTICE":                               "golang.org/x/sys BSD-3-Clause\n",
	"Makefile":                             "build:\n\tgo build ./...\n",
	"main.go":                              "// Command m is an example.\npackage main\n\nimport \"example.org/m/control\"\n\nfunc main() {}\n",
	"streams/doc.go":                       "// Package streams is an example.\npackage streams\n",
	"streams/streamstest/doc.go":           "// Package streamstest is a kit.\npackage streamstest\n",
	"producers/doc.go":                     "// Package producers is an example.\npackage producers\n\nimport \"example.org/m/streams\"\n\nvar _ = streams.X\n",
	"agent/doc.go":                         "// Package agent is an example.\npackage agent\n\nimport \"example.org/m/producers\"\n\nvar _ = producers.X\n",
	"agent/module.go":                      "package agent\n\nimport \"go.uber.org/fx\"\n\nvar _ = fx.X\n",
	"agent/leeward-agent/main.go":          "// Command leeward-agent is an example.\npackage main\n\nimport \"example.org/m/agent\"\n\nvar _ = agent.X\n",
	"consumers/vault/doc.go":               "// Package vault is an example.\npackage vault\n",
	"consumers/process/doc.go":             "// Package process is an example.\npackage process\n\nimport \"example.org/m/consumers/vault\"\n\nvar _ = vault.X\n",
	"consumers/process/x_test.go":          "package process\n\nimport (\n\t\"example.org/m/producers\"\n\t\"example.org/m/streams/streamstest\"\n\t\"pgregory.net/rapid\"\n)\n",
	"control/doc.go":                       "// Package control is an example.\npackage control\n\nimport \"example.org/m/consumers/vault\"\n\n// X is an example.\nconst X = 1\n",
	"control/target/doc.go":                "// Package target is an example.\npackage target\n",
	"bench/main.go":                        "// Command bench is an example.\npackage main\n\nimport \"example.org/m/agent\"\n",
	"consumers/vault/testdata/nothing.go":  "this is not Go\n",
	"deploy/tools/go.mod":                  "module example.org/tools\n",
	"deploy/tools/tool.go":                 "package util\n",
	"consumers/vault/store/storetest/x.go": "package storetest\n\nimport \"pgregory.net/rapid\"\n",
	"consumers/vault/store/storetest/doc.go": "// Package storetest is a kit.\npackage storetest\n\n" +
		"// Names of the cases.\nconst (\n\tA = 1\n\tB = 2\n)\n\n// S is a store.\ntype S struct{}\n\n// Do does.\nfunc (*S) Do() {}\n\ntype hidden int\n\nfunc (hidden) String() string { return \"\" }\n",
}

// planted are the violations: a file, its contents, and a part of the message that
// must come out of the rule.
var planted = []struct{ name, rule, path, src, want string }{
	{"not Go", "files parse", "streams/x.go", "package streams\nfunc (\n", "streams/x.go:"},
	{"streams look right", "imports point one way", "streams/x.go", "package streams\nimport \"example.org/m/consumers/process\"\n", "streams may not import consumers/process"},
	{"behind a build tag", "imports point one way", "agent/x_windows.go", "//go:build windows\n\npackage agent\nimport \"example.org/m/control\"\n", "agent may not import control"},
	{"vault imports streams", "imports point one way", "consumers/vault/x.go", "package vault\nimport \"example.org/m/streams\"\n", "consumers/vault may not import streams"},
	{"vault tests stay alone", "imports point one way", "consumers/vault/x_test.go", "package vault\nimport \"example.org/m/producers\"\n", "consumers/vault may not import producers"},
	{"control imports process", "imports point one way", "control/x.go", "package control\nimport \"example.org/m/consumers/process\"\n", "control may not import consumers/process"},
	{"target imports vault", "imports point one way", "control/target/x.go", "package target\nimport \"example.org/m/consumers/vault\"\n", "control/target may not import consumers/vault"},
	{"root imports agent", "imports point one way", "x.go", "package main\nimport \"example.org/m/agent\"\n", ". may not import agent"},
	{"bench imports the cli", "imports point one way", "bench/x.go", "package main\nimport \"example.org/m/control/cli\"\n", "bench may not import control/cli"},
	{"prefix of a name", "imports point one way", "producers/x.go", "package producers\nimport \"example.org/m/streamsx\"\n", "producers may not import streamsx"},
	{"a test's extra import in code", "imports point one way", "consumers/process/x.go", "package process\nimport \"example.org/m/producers\"\n", "consumers may not import producers"},
	{"unknown folder", "imports point one way", "common/doc.go", "// Package x is one.\npackage x\n", "folder common has no row"},
	{"kit in code", "test kits stay in tests", "producers/x.go", "package producers\nimport \"example.org/m/streams/streamstest\"\n", "imports the test kit streams/streamstest"},
	{"rapid in code", "test kits stay in tests", "producers/x.go", "package producers\nimport \"pgregory.net/rapid\"\n", "imports pgregory.net/rapid"},
	{"second door for NATS", "one door per dependency", "consumers/process/x_test.go", "package process\nimport \"github.com/nats-io/nats-server/v2/server\"\n", "imports github.com/nats-io/nats-server/v2"},
	{"second door for msgpack", "one door per dependency", "control/x.go", "package control\nimport \"github.com/vmihailenco/msgpack/v5\"\n", "belongs to [streams/wire"},
	{"fx in a leaf", "fx wires roles only", "control/x.go", "package control\nimport \"go.uber.org/fx\"\n", "control/x.go: imports fx"},
	{"server in the agent", "the agent is light", "producers/x.go", "package producers\nimport \"github.com/nats-io/nats-server/v2/server\"\n", "by way of agent/leeward-agent -> agent -> producers"},
	{"Azure in the agent", "the agent is light", "streams/x_windows.go", "package streams\nimport \"github.com/Azure/azure-sdk-for-go/sdk/azcore\"\n", "links github.com/Azure"},
	{"agent is gone", "the agent is light", "agent/leeward-agent/main.go", "", "no Go files"},
	{"registry", "no registration by blank import", "control/x.go", "package control\nimport _ \"example.org/m/control/target\"\n", "blank import of example.org/m/control/target"},
	{"long file", "sizes", "control/x_test.go", "package control\n" + strings.Repeat("//\n", maxFileLines), "control/x_test.go: 601 lines"},
	{"long function", "sizes", "control/x.go", "package control\nfunc f() {\n" + strings.Repeat("\t_ = 1\n", maxFuncLines) + "}\n", "func f has 82 lines"},
	{"vague name", "package names", "control/util/doc.go", "// Package util is vague.\npackage util\n", `"util" names none`},
	{"no doc.go", "package docs", "control/x/x.go", "// Package x is documented elsewhere.\npackage x\n", "control/x: no doc.go"},
	{"empty doc.go", "package docs", "control/x/doc.go", "package x\n", "control/x: no doc.go"},
	{"bare function", "exported names are documented", "control/x.go", "package control\nfunc Bare() {}\n", "exported Bare"},
	{"bare method", "exported names are documented", "control/x.go", "package control\n// T is one.\ntype T[A any] struct{}\nfunc (*T[A]) Bare() {}\n", "exported T.Bare"},
	{"bare type in a group", "exported names are documented", "control/x.go", "package control\n// Types.\ntype (\n\tBare int\n)\n", "exported Bare"},
	{"bare variable", "exported names are documented", "control/x.go", "package control\nvar ErrBare = 1\n", "exported ErrBare"},
	{"directive is no comment", "exported names are documented", "control/x.go", "package control\n//go:noinline\nfunc Bare() {}\n", "exported Bare"},
	{"init", "no init functions", "control/x.go", "package control\nfunc init() {}\n", "control/x.go: init function"},
	{"long Makefile", "the Makefile is short", "Makefile", strings.Repeat("x:\n", maxMakefileLines+1), "41 lines"},
	{"home directory", "no paths of one machine", "README.md", "see /" + "home/alice/notes\n", "README.md: contains"},
	{"hidden file", "no paths of one machine", ".ci/run", "cd '/" + "Users/bob/src'\n", ".ci/run: contains"},
	{"this checkout", "no paths of one machine", "docs/x.md", "built in {root}/bin\n", "docs/x.md: contains"},
	{"module missing in NOTICE", "NOTICE is complete", "NOTICE", "golang.org/x/system\n", "golang.org/x/sys is in go.mod"},
}

// TestRulesCatch makes sure that every rule can fail; TestRulesAcceptSoundTree, that
// it does so for a reason.
func TestRulesCatch(t *testing.T) {
	plantedFor := map[string]bool{}
	for _, c := range planted {
		plantedFor[c.rule] = true
		t.Run(c.name, func(t *testing.T) {
			files := maps.Clone(sound)
			files[c.path] = c.src
			tr := plant(t, files)
			i := slices.IndexFunc(rules, func(r rule) bool { return r.name == c.rule })
			if i < 0 {
				t.Fatalf("there is no rule %q", c.rule)
			}
			bad := rules[i].check(tr)
			if !slices.ContainsFunc(bad, func(v string) bool { return strings.Contains(v, c.want) }) {
				t.Errorf("rule %q says %q, want something with %q", c.rule, bad, c.want)
			}
		})
	}
	for _, r := range rules {
		if !plantedFor[r.name] {
			t.Errorf("rule %q has no planted violation", r.name)
		}
	}
}

func TestRulesAcceptSoundTree(t *testing.T) {
	tr := plant(t, sound)
	for _, r := range rules {
		for _, v := range r.check(tr) {
			t.Errorf("rule %q: %s", r.name, v)
		}
	}
}

// plant writes files into a fresh folder and loads it; a file without contents is
// left out, and {root} stands for the folder.
func plant(t *testing.T, files map[string]string) *tree {
	t.Helper()
	root := t.TempDir()
	for name, src := range files {
		if src == "" {
			continue
		}
		p := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(strings.ReplaceAll(src, "{root}", root)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := loadTree(root)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}
