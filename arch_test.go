package main_test

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
)

// The architecture of Leeward is the tables below. A folder is a key; the longest
// key that contains a file's folder rules it. A folder may always import itself
// and what lies under it.
//
// The tests parse the source instead of asking the go command: go's test cache
// knows which files a test has read, but not what a child process has read, so an
// answer from `go list` could be cached after the tree has changed. The parser
// also sees files behind build tags.

// anything in a table allows every folder; a leading "-" takes one out again.
const anything = "*"

// mayImport says which folders the files of a folder may import.
var mayImport = map[string][]string{
	"streams":                {},
	"producers":              {"streams"},
	"agent":                  {"producers", "streams"},
	"consumers":              {"streams"},
	"consumers/mastertarget": {"consumers/vault", "agent/disk", "streams"},                                  // writes disks home, here or in a rescue at the other end of the bus
	"consumers/vault":        {"streams/sums"},                                                              // must be readable with NATS and everything else gone
	"control":                {"streams", "producers/markers", "consumers/vault", "consumers/mastertarget"}, // it leads barriers
	"control/reverse":        {"streams", "producers", "agent/capture", "consumers/vault"},                  // an agent for a machine at the recovery site
	"control/target":         {},
	"control/push/crew":      {"control", "deploy/systemd"}, // the unit of the agents that it installs
	"embed":                  {"streams"},
	"embed/appliance":        {"embed", "consumers", "control", "streams"},
	"bench":                  {anything, "-control/cli"},
	"control/cli":            {"streams", "consumers/vault", "consumers/mastertarget", "control", "deploy/systemd"},
	"deploy/systemd":         {}, // texts only
	".":                      {"embed", "consumers", "control", "streams"},
}

// testsMayImport says what test files may import on top of mayImport: the real
// thing on the other side of a contract instead of a stand-in for it.
var testsMayImport = map[string][]string{
	"consumers":              {"producers"},
	"consumers/mastertarget": {"agent/rescue"}, // the other end
	"control":                {"consumers"},
	"control/reverse":        {"consumers", "control/target", "control/vaulttest"},
	"control/target":         {"consumers/vault/store/azuritetest"}, // page blobs
	"embed/appliance":        {anything},
	"bench":                  {anything},
	".":                      {anything},
}

// doors says through which folders a module enters the tree. A module that is
// not listed may be imported from anywhere.
var doors = map[string][]string{
	"github.com/nats-io/nats-server/v2":  {"embed", "streams/streamstest"},
	"github.com/nats-io/jwt/v2":          {"streams/trust", "embed"},
	"github.com/vmihailenco/msgpack/v5":  {"streams/wire", "consumers/vault/internal/format"},
	"github.com/klauspost/reedsolomon":   {"consumers/vault/store/shard"},
	"github.com/Azure/azure-sdk-for-go":  {"consumers/vault/store/azure", "control/target/azure"},
	"github.com/ulikunitz/xz":            {"control/target/fixup"},
	"github.com/cilium/ebpf":             {"agent/capture/trace"},
	"golang.org/x/crypto/ssh":            {"control/push"},
	"golang.org/x/crypto/ssh/knownhosts": {"control/push"},
	"github.com/pkg/sftp":                {"control/push"},
}

// testModules are never linked into a binary.
var testModules = []string{"pgregory.net/rapid", "go.uber.org/goleak", "github.com/rogpeppe/go-internal", "github.com/google/jsonschema-go"}

// notInAgent lists what must not reach the binary that is installed on customers'
// servers, directly or through a package of ours.
var notInAgent = []string{"github.com/nats-io/nats-server", "github.com/Azure"}

const (
	agentMain = "agent/leeward-agent"
	fxModule  = "go.uber.org/fx"
)

// A rule reports what in a tree breaks it, one line each.
type rule struct {
	name  string
	check func(*tree) []string
}

var rules = []rule{
	{"files parse", unparsed},
	{"imports point one way", importDirections},
	{"test kits stay in tests", kitsInTests},
	{"one door per dependency", dependencyDoors},
	{"fx wires roles only", fxPlaces},
	{"the agent is light", agentIsLight},
	{"no registration by blank import", blankImports},
	{"sizes", sizes},
	{"package names", packageNames},
	{"package docs", packageDocs},
	{"exported names are documented", exportedDocs},
	{"no init functions", initFunctions},
	{"the Makefile is short", makefileSize},
	{"no paths of one machine", machinePaths},
	{"NOTICE is complete", noticeComplete},
}

func TestArchitecture(t *testing.T) {
	tr, err := loadTree(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, v := range r.check(tr) {
				t.Error(v)
			}
		})
	}
}

// under reports whether a folder is dir or lies below it. Only the root itself is
// under ".".
func under(folder, dir string) bool {
	return folder == dir || dir != "." && strings.HasPrefix(folder, dir+"/")
}

// keyOf finds the longest key of a table that contains folder.
func keyOf[V any](table map[string]V, folder string) (key string, ok bool) {
	for k := range table {
		if under(folder, k) && len(k) >= len(key) {
			key, ok = k, true
		}
	}
	return key, ok
}

// allows reports whether a row of a table lets folder in.
func allows(row []string, folder string) bool {
	ok := false
	for _, entry := range row {
		out := strings.HasPrefix(entry, "-")
		entry = strings.TrimPrefix(entry, "-")
		if entry == anything || under(folder, entry) {
			ok = !out
		}
	}
	return ok
}

func importDirections(t *tree) (bad []string) {
	for _, f := range t.files {
		key, ok := keyOf(mayImport, f.dir)
		if !ok {
			bad = append(bad, fmt.Sprintf("%s: folder %s has no row in mayImport: move the file into a folder of the layout, or add the row", f.path, f.dir))
			continue
		}
		row := mayImport[key]
		if testKey, ok := keyOf(testsMayImport, f.dir); ok && f.test && testKey == key {
			row = append(slices.Clone(row), testsMayImport[key]...)
		}
		for _, imp := range f.imports {
			if to, ours := t.folder(imp); ours && !under(to, key) && !allows(row, to) {
				bad = append(bad, fmt.Sprintf("%s: %s may not import %s, only itself and %v", f.path, key, to, row))
			}
		}
	}
	return bad
}

// isKit reports whether a folder holds a test kit: streamstest, storetest, …
func isKit(folder string) bool {
	return len(path.Base(folder)) > 4 && strings.HasSuffix(folder, "test")
}

func kitsInTests(t *tree) (bad []string) {
	for _, f := range t.files {
		if f.test || isKit(f.dir) {
			continue
		}
		for _, imp := range f.imports {
			if to, ours := t.folder(imp); ours && isKit(to) {
				bad = append(bad, fmt.Sprintf("%s: imports the test kit %s: only tests and other kits may", f.path, to))
			}
			for _, m := range testModules {
				if under(imp, m) {
					bad = append(bad, fmt.Sprintf("%s: imports %s: only tests and test kits may", f.path, m))
				}
			}
		}
	}
	return bad
}

func dependencyDoors(t *tree) (bad []string) {
	for _, f := range t.files {
		for _, imp := range f.imports {
			module, ok := keyOf(doors, imp)
			if ok && !slices.ContainsFunc(doors[module], func(d string) bool { return under(f.dir, d) }) {
				bad = append(bad, fmt.Sprintf("%s: imports %s, which belongs to %v: call those instead", f.path, module, doors[module]))
			}
		}
	}
	return bad
}

func fxPlaces(t *tree) (bad []string) {
	for _, f := range t.files {
		at := path.Base(f.path)
		if at == "module.go" || at == "module_test.go" || f.isMain() || under(f.dir, "embed/appliance") {
			continue
		}
		if slices.ContainsFunc(f.imports, func(imp string) bool { return under(imp, fxModule) }) {
			bad = append(bad, f.path+": imports fx: constructors are plain Go, wiring lives in module.go, mains and embed/appliance")
		}
	}
	return bad
}

// agentIsLight follows the agent's imports through our own packages.
func agentIsLight(t *tree) (bad []string) {
	byDir := map[string][]*file{}
	for _, f := range t.files {
		if !f.test {
			byDir[f.dir] = append(byDir[f.dir], f)
		}
	}
	if len(byDir[agentMain]) == 0 {
		return []string{agentMain + ": no Go files: the rule that keeps the agent light has nothing to look at"}
	}
	seen, queue := map[string]string{agentMain: agentMain}, []string{agentMain}
	for len(queue) > 0 {
		dir := queue[0]
		queue = queue[1:]
		for _, f := range byDir[dir] {
			for _, imp := range f.imports {
				for _, m := range notInAgent {
					if strings.HasPrefix(imp+"/", m+"/") {
						bad = append(bad, fmt.Sprintf("%s: links %s into the agent by way of %s", f.path, imp, seen[dir]))
					}
				}
				if to, ours := t.folder(imp); ours && seen[to] == "" {
					seen[to] = seen[dir] + " -> " + to
					queue = append(queue, to)
				}
			}
		}
	}
	return bad
}

func blankImports(t *tree) (bad []string) {
	for _, f := range t.files {
		for _, imp := range f.blank {
			if strings.Contains(strings.Split(imp, "/")[0], ".") {
				bad = append(bad, fmt.Sprintf("%s: blank import of %s: wire it by name in module.go", f.path, imp))
			}
		}
	}
	return bad
}
