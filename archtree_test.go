package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// tree is the repository as the rules see it.
type tree struct {
	root   string
	module string
	files  []*file  // every Go file of the module, whatever its build tags
	broken []string // files that do not parse
	fset   *token.FileSet
}

// file is one Go file. Paths are relative to the root, with slashes.
type file struct {
	path, dir string
	test      bool // a _test.go file
	lines     int
	ast       *ast.File
	imports   []string
	blank     []string // those imported as _
}

func (f *file) isMain() bool { return f.ast.Name.Name == "main" || f.ast.Name.Name == "main_test" }

// folder turns an import path into a folder of the tree; ours is false if it is
// the path of somebody else's package.
func (t *tree) folder(imp string) (folder string, ours bool) {
	if imp == t.module {
		return ".", true
	}
	return strings.CutPrefix(imp, t.module+"/")
}

// loadTree parses every Go file below root that belongs to root's module.
func loadTree(root string) (*tree, error) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, fmt.Errorf("read the module's name: %w", err)
	}
	t := &tree{root: root, fset: token.NewFileSet()}
	for line := range strings.Lines(string(mod)) {
		if name, ok := strings.CutPrefix(line, "module "); ok {
			t.module = strings.TrimSpace(name)
		}
	}
	if t.module == "" {
		return nil, errors.New("go.mod has no module line")
	}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return t.enter(p, d.Name())
		}
		if strings.HasSuffix(p, ".go") {
			return t.add(p)
		}
		return nil
	})
	return t, err
}

// enter skips the folders that the go command skips too.
func (t *tree) enter(p, name string) error {
	if p == t.root {
		return nil
	}
	if name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func (t *tree) add(p string) error {
	src, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(t.root, p)
	if err != nil {
		return err
	}
	rel = filepath.ToSlash(rel)
	f := &file{path: rel, dir: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), lines: bytes.Count(src, []byte("\n"))}
	f.ast, err = parser.ParseFile(t.fset, rel, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.broken = append(t.broken, err.Error())
		return nil
	}
	for _, spec := range f.ast.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.broken = append(t.broken, fmt.Sprintf("%s: import %s: %v", rel, spec.Path.Value, err))
			continue
		}
		f.imports = append(f.imports, imp)
		if spec.Name != nil && spec.Name.Name == "_" {
			f.blank = append(f.blank, imp)
		}
	}
	t.files = append(t.files, f)
	return nil
}

func unparsed(t *tree) []string { return t.broken }

// packages groups the files that are not tests by folder.
func (t *tree) packages() map[string][]*file {
	out := map[string][]*file{}
	for _, f := range t.files {
		if !f.test {
			out[f.dir] = append(out[f.dir], f)
		}
	}
	return out
}
