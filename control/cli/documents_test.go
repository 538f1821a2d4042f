package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/leeward-dr/leeward/control/api/apitest"
)

var update = flag.Bool("update", false, "write testdata/documents.json anew")

// The documents are a file, so that whoever changes one sees that others read it.
func TestDocumentsAreThoseThatWerePromised(t *testing.T) {
	all := map[string]json.RawMessage{}
	for _, name := range Documents() {
		all[name] = DocumentSchema(name)
		apitest.Resolve(t, all[name])
		var s struct {
			Properties map[string]any
			Required   []string
		}
		if err := json.Unmarshal(all[name], &s); err != nil || s.Properties["schema"] == nil {
			t.Errorf("%s does not name its schema: %v", name, err)
		}
	}
	if DocumentSchema("leeward.tea.v1") != nil {
		t.Error("a document that nobody prints has a schema")
	}
	got, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "documents.json")
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(bytes.TrimSpace(want), got) {
		return
	}
	var was map[string]json.RawMessage
	if err := json.Unmarshal(want, &was); err != nil {
		t.Fatal(err)
	}
	for name, text := range was {
		var b bytes.Buffer
		if err := json.Compact(&b, text); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), all[name]) {
			t.Errorf("%s has changed, or is gone", name)
		}
	}
	t.Error("documents have changed: if nothing was taken away, go test ./control/cli -run Documents -update")
}
