package docstest

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		`leeward vault ls --vault dir:///x # all`:       {"leeward", "vault", "ls", "--vault", "dir:///x"},
		`leeward token new --machine web1 > web1.token`: {"leeward", "token", "new", "--machine", "web1"},
		`leeward up --dir $D 2>&1 | tee log`:            {"leeward", "up", "--dir", "$D"},
		`leeward failover test web --serial 'log in:'`:  {"leeward", "failover", "test", "web", "--serial", "log in:"},
		`leeward machine disable web [--drop-history]`:  {"leeward", "machine", "disable", "web", "--drop-history"},
		`leeward up &`: {"leeward", "up"},
		``:             nil,
	} {
		if got := Words(line); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	text := "leeward no block\n\n```\n$ leeward a \\\n  b\nX=1 bin/leeward c\nleeward-agent d\n```\n\n    leeward e\n"
	got := find("p.md", text, "leeward")
	if len(got) != 3 || !slices.Equal(got[0].Args, []string{"a", "b"}) || !slices.Equal(got[1].Args, []string{"c"}) || got[2].Where != "p.md:10" {
		t.Errorf("%+v", got)
	}
}

func TestBlocks(t *testing.T) {
	dir := t.TempDir()
	page := "# One\n```\nmake it   # so\n\n$ run \\\n  twice\n```\ntext\n## Two\n```console\nlook &\n```\n"
	if err := os.WriteFile(filepath.Join(dir, "p.md"), []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	got := Blocks(t, dir, "p.md")
	want := []Block{
		{Heading: "One", Lines: []Line{{"p.md:3", "make it   # so"}, {"p.md:6", "run   twice"}}},
		{Heading: "Two", Kind: "console", Lines: []Line{{"p.md:11", "look &"}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}
