// Package docstest finds the commands that the documentation shows, so that tests can
// hold them against the programs.
//
// It owns the reading of Markdown and of a shell's words, as far as documentation uses
// them. It never runs anything.
package docstest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Command is one that a page shows.
type Command struct {
	Where string // file and line
	Args  []string
}

// Commands finds every call of a program in the fenced and the indented blocks of all pages below a
// directory and its README: what stands after NAME, bin/NAME or "$ NAME" at the start of
// a line. Assignments before it, redirections, pipes and comments after it are dropped.
func Commands(t testing.TB, root, name string) []Command {
	t.Helper()
	var pages []string
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(p, ".md") && !strings.Contains(p, "/adr/") {
			pages = append(pages, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []Command
	for _, p := range append(pages, filepath.Join(root, "README.md")) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, find(rel, string(b), name)...)
	}
	return all
}

func find(page, text, name string) (all []Command) {
	fenced, number, carried := false, 0, ""
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "```") {
			fenced, carried = !fenced, ""
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			carried = ""
			continue
		}
		line = carried + strings.TrimSpace(line)
		if carried = ""; strings.HasSuffix(line, "\\") {
			carried = strings.TrimSuffix(line, "\\")
			continue
		}
		words := Words(line)
		if len(words) > 0 && words[0] == "$" {
			words = words[1:]
		}
		for len(words) > 0 && strings.Contains(words[0], "=") && !strings.HasPrefix(words[0], "-") {
			words = words[1:]
		}
		if len(words) > 0 && filepath.Base(words[0]) == name {
			all = append(all, Command{Where: page + ":" + strconv.Itoa(number), Args: words[1:]})
		}
	}
	return all
}

// Line is one line of a block: a command, as somebody would type it.
type Line struct {
	Where string // file and line
	Text  string // without "$ ", with its comment, continued lines joined
}

// Block is a fenced block of a page.
type Block struct {
	Heading string // the last one before it, without #
	Kind    string // what stands behind the fence
	Lines   []Line // without empty ones
}

// Blocks finds the fenced blocks of a page below root.
func Blocks(t testing.TB, root, page string) (all []Block) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	heading, number, carried := "", 0, ""
	var in *Block
	for line := range strings.Lines(string(b)) {
		number++
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "```") && in == nil:
			in = &Block{Heading: heading, Kind: strings.TrimPrefix(line, "```")}
		case strings.HasPrefix(line, "```"):
			all, in = append(all, *in), nil
		case in == nil && strings.HasPrefix(line, "#"):
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		case in == nil:
		case strings.HasSuffix(line, "\\"):
			carried += strings.TrimSuffix(line, "\\")
		case carried+strings.TrimSpace(line) != "":
			text := strings.TrimPrefix(strings.TrimSpace(carried+line), "$ ")
			in.Lines, carried = append(in.Lines, Line{Where: page + ":" + strconv.Itoa(number), Text: text}), ""
		}
	}
	return all
}

// Words splits a line as a shell would, up to a comment, a pipe, a redirection, && or &.
// Brackets around what may be left out, as in [--wait], are dropped.
func Words(line string) (words []string) {
	word, in, quote := "", false, rune(0)
	end := func() {
		if in {
			words = append(words, word)
		}
		word, in = "", false
	}
	for i, r := range line {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
				continue
			}
			word += string(r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case r == ' ' || r == '\t':
			end()
		case strings.ContainsRune("|>&;<", r), r == '#' && !in:
			if r == '>' && (word == "1" || word == "2") {
				in = false
			}
			end()
			return words
		case (r == '[' && !in) || (r == ']' && i > 0):
		default:
			word, in = word+string(r), true
		}
	}
	end()
	return words
}
