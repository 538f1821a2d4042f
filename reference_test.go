package main

import (
	"bytes"
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// reference says which packages' comments are specifications for others, and the page of
// each below docs/reference.
var reference = map[string]string{
	"streams.md":       "streams",
	"wire.md":          "streams/wire",
	"vault.md":         "consumers/vault",
	"format.md":        "consumers/vault/internal/format",
	"api.md":           "control/api",
	"plan.md":          "control/plan",
	"barrier.md":       "producers/markers",
	"kept-record.md":   "agent/capture/trace",
	"nbd.md":           "control/target/nbd",
	"shard.md":         "consumers/vault/store/shard",
	"enrolment.md":     "control/enrol",
	"master-target.md": "consumers/mastertarget",
	"rescue.md":        "streams/rescue",
}

// The pages of docs/reference are the package comments, word for word: there is one text,
// and it is where the code is. UPDATE_DOCS=1 writes them anew.
func TestReference(t *testing.T) {
	const dir = "docs/reference"
	update := os.Getenv("UPDATE_DOCS") != ""
	var index bytes.Buffer
	index.WriteString("# Reference\n\nFormats and protocols, from the comments of the packages that own them (`UPDATE_DOCS=1 go test -run TestReference .`).\n\n")
	for _, page := range sorted(reference) {
		text, synopsis := pageOf(t, reference[page])
		index.WriteString("- [" + reference[page] + "](" + page + "): " + synopsis + "\n")
		compare(t, filepath.Join(dir, page), text, update)
	}
	compare(t, filepath.Join(dir, "README.md"), index.Bytes(), update)
	have, err := filepath.Glob(dir + "/*.md")
	if err != nil || len(have) != len(reference)+1 {
		t.Errorf("%s has %d pages, want %d: %v", dir, len(have), len(reference)+1, err)
	}
}

func compare(t *testing.T, file string, want []byte, update bool) {
	t.Helper()
	if update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the package says (%v): UPDATE_DOCS=1 go test -run TestReference .", file, err)
	}
}

// pageOf is a package's comment as Markdown, and its first sentence.
func pageOf(t *testing.T, folder string) (page []byte, synopsis string) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, filepath.Join(folder, "doc.go"), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	p, err := doc.NewFromFiles(set, []*ast.File{f}, "github.com/leeward-dr/leeward/"+folder)
	if err != nil {
		t.Fatal(err)
	}
	parsed := p.Parser().Parse(p.Doc)
	printer := &comment.Printer{HeadingLevel: 2, HeadingID: func(*comment.Heading) string { return "" }, DocLinkURL: func(*comment.DocLink) string { return "" }}
	return append([]byte("# Package "+folder+"\n\n"), printer.Markdown(parsed)...), p.Synopsis(p.Doc)
}

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
