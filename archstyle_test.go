package main_test

import (
	"errors"
	"fmt"
	"go/ast"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The house numbers, see CONTRIBUTING.md.
const (
	maxFileLines     = 600
	maxFuncLines     = 80
	maxMakefileLines = 40
)

// vague names say nothing about what a package owns.
var vague = []string{"common", "util", "utils", "helper", "helpers", "types", "base", "misc", "shared", "lib"}

// sizes counts test files too, but lets a test's table of cases be as long as it
// needs to be.
func sizes(t *tree) (bad []string) {
	for _, f := range t.files {
		if f.lines > maxFileLines {
			bad = append(bad, fmt.Sprintf("%s: %d lines, at most %d: split it by topic", f.path, f.lines, maxFileLines))
		}
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := t.fset.Position(fn.End()).Line - t.fset.Position(fn.Pos()).Line + 1
			if n > maxFuncLines {
				bad = append(bad, fmt.Sprintf("%s: func %s has %d lines, at most %d", f.path, fn.Name.Name, n, maxFuncLines))
			}
		}
	}
	return bad
}

func packageNames(t *tree) (bad []string) {
	for dir, files := range t.packages() {
		for _, name := range []string{path.Base(dir), files[0].ast.Name.Name} {
			if slices.Contains(vague, name) {
				bad = append(bad, fmt.Sprintf("%s: a package is one noun; %q names none", dir, name))
				break
			}
		}
	}
	slices.Sort(bad)
	return bad
}

// packageDocs wants a doc.go in every package; a main may say what it is in
// main.go.
func packageDocs(t *tree) (bad []string) {
	for dir, files := range t.packages() {
		documented := slices.ContainsFunc(files, func(f *file) bool {
			at := path.Base(f.path)
			return (at == "doc.go" || at == "main.go" && f.isMain()) && documents(f.ast.Doc)
		})
		if !documented {
			bad = append(bad, dir+": no doc.go with a package comment that says what the package owns and never does")
		}
	}
	slices.Sort(bad)
	return bad
}

func initFunctions(t *tree) (bad []string) {
	for _, f := range t.files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				bad = append(bad, f.path+": init function: construct it where it is wired")
			}
		}
	}
	return bad
}

// documents reports whether a comment group says something; a directive such as
// //go:build alone does not.
func documents(c *ast.CommentGroup) bool { return c != nil && strings.TrimSpace(c.Text()) != "" }

func exportedDocs(t *tree) (bad []string) {
	for _, f := range t.files {
		if f.test || f.isMain() {
			continue
		}
		for _, d := range f.ast.Decls {
			for _, name := range undocumented(d) {
				bad = append(bad, fmt.Sprintf("%s: exported %s has no doc comment", f.path, name))
			}
		}
	}
	return bad
}

// undocumented lists the exported names that a declaration leaves without a
// comment. In a group of constants or variables the group's comment, one above
// the line or one at its end will do; methods count when their type is exported.
func undocumented(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if name, exported := funcName(d); exported && !documents(d.Doc) {
			names = append(names, name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				alone := !d.Lparen.IsValid() && documents(d.Doc)
				if s.Name.IsExported() && !alone && !documents(s.Doc) && !documents(s.Comment) {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				if documents(d.Doc) || documents(s.Doc) || documents(s.Comment) {
					continue
				}
				for _, n := range s.Names {
					if n.IsExported() {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}

// funcName names a function or "Type.Method".
func funcName(d *ast.FuncDecl) (name string, exported bool) {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return d.Name.Name, d.Name.IsExported()
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.Name + "." + d.Name.Name, x.IsExported() && d.Name.IsExported()
		default:
			return d.Name.Name, d.Name.IsExported()
		}
	}
}

func makefileSize(t *tree) []string {
	src, err := os.ReadFile(filepath.Join(t.root, "Makefile"))
	if err != nil {
		return []string{fmt.Sprintf("Makefile: %v", err)}
	}
	n := 0
	for line := range strings.Lines(string(src)) {
		if s := strings.TrimSpace(line); s != "" && !strings.HasPrefix(s, "#") {
			n++
		}
	}
	if n > maxMakefileLines {
		return []string{fmt.Sprintf("Makefile: %d lines, at most %d: what is longer is a script in deploy/ci", n, maxMakefileLines)}
	}
	return nil
}

// notInPath is a character that ends no path: in "$IMG/root/x" the path goes on from
// a variable and names no folder of this machine.
const notInPath = `[^A-Za-z0-9_./}$-]`

// homes matches paths below somebody's home directory.
var homes = regexp.MustCompile(`(?:^|` + notInPath + `)(?:/(?:home|Users)/[a-z][a-z0-9_-]*/|/root/(?:go|work|src)/)`)

// unremarkable folders hold checkouts on many machines; naming them gives nothing
// away.
var unremarkable = []string{"/", "/tmp", "/var/tmp", "/src", "/usr/src", "/usr/local/src", "/opt", "/srv", "/go", "/go/src", "/root", "/home"}

// machinePaths looks through every file for the folder this checkout lies in and
// for home directories.
func machinePaths(t *tree) (bad []string) {
	abs, err := filepath.Abs(t.root)
	if err != nil {
		return []string{err.Error()}
	}
	here := regexp.QuoteMeta(abs)
	if parent := filepath.Dir(abs); !slices.Contains(unremarkable, parent) {
		here += "|(?:^|" + notInPath + ")" + regexp.QuoteMeta(parent+"/")
	}
	patterns := []*regexp.Regexp{regexp.MustCompile(here), homes}
	err = filepath.WalkDir(t.root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != t.root && slices.Contains([]string{".git", "bin", "dist", "results"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		found, err := search(p, d, patterns)
		for _, m := range found {
			bad = append(bad, fmt.Sprintf("%s: contains %q, a path of one machine", p, m))
		}
		return err
	})
	if err != nil {
		bad = append(bad, err.Error())
	}
	return bad
}

// search returns what the patterns match first in a file. Files over 1 MiB are not
// source; a file that is gone was somebody's temporary one.
func search(p string, d fs.DirEntry, patterns []*regexp.Regexp) (found []string, err error) {
	info, err := d.Info()
	if err != nil || !info.Mode().IsRegular() || info.Size() > 1<<20 {
		return nil, ignoreGone(err)
	}
	src, err := os.ReadFile(p)
	if err != nil {
		return nil, ignoreGone(err)
	}
	for _, re := range patterns {
		if m := re.Find(src); m != nil {
			found = append(found, strings.TrimSpace(string(m)))
		}
	}
	return found, nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// noticeComplete wants every module of go.mod, direct or not, in NOTICE.
func noticeComplete(t *tree) (bad []string) {
	notice, err := os.ReadFile(filepath.Join(t.root, "NOTICE"))
	if err != nil {
		return []string{fmt.Sprintf("NOTICE: %v", err)}
	}
	mod, err := os.ReadFile(filepath.Join(t.root, "go.mod"))
	if err != nil {
		return []string{err.Error()}
	}
	named := map[string]bool{}
	for _, word := range strings.Fields(string(notice)) {
		named[word] = true
	}
	for _, m := range requirement.FindAllStringSubmatch(string(mod), -1) {
		if !named[m[1]] {
			bad = append(bad, fmt.Sprintf("NOTICE: %s is in go.mod and not named: add it with its licence and copyright", m[1]))
		}
	}
	return bad
}

// requirement matches a line of go.mod that requires a module, in a block or alone.
var requirement = regexp.MustCompile(`(?m)^(?:require)?\s+([a-z0-9.-]+\.[a-z]+/\S+) v\d`)
