package fixup

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
)

// moduleName returns the name of the module in a file, with underscores as the kernel has
// it; "" if the file is none.
func moduleName(file string) string {
	base := path.Base(file)
	for _, packed := range []string{".xz", ".zst", ".gz"} {
		base = strings.TrimSuffix(base, packed)
	}
	name, ok := strings.CutSuffix(base, ".ko")
	if !ok {
		return ""
	}
	return strings.ReplaceAll(name, "-", "_")
}

// modules is what depmod and the build of a kernel say of its modules.
type modules struct {
	files   map[string]string   // path below the kernel's folder, by name
	needs   map[string][]string // paths, by path; what must be loaded first comes last
	builtin map[string]bool
}

// parseModules reads modules.dep and modules.builtin. Lines that make no sense are errors: a
// table that is half understood would leave a machine without its disks.
func parseModules(dep, builtin []byte) (*modules, error) {
	m := &modules{files: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	n := 0
	for line := range bytes.Lines(dep) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		file, needs, ok := strings.Cut(text, ":")
		name := moduleName(file)
		if !ok || name == "" || !localPath(file) {
			return nil, fmt.Errorf("line %d of modules.dep is %.80q", n, text)
		}
		m.files[name] = file
		m.needs[file] = strings.Fields(needs)
		for _, f := range m.needs[file] {
			if moduleName(f) == "" || !localPath(f) {
				return nil, fmt.Errorf("line %d of modules.dep names %.80q", n, f)
			}
		}
	}
	for line := range bytes.Lines(builtin) {
		if name := moduleName(strings.TrimSpace(string(line))); name != "" {
			m.builtin[name] = true
		}
	}
	return m, nil
}

// localPath says whether a name stays below the folder that it is relative to.
func localPath(p string) bool {
	return p != "" && p[0] != '/' && !slices.Contains(strings.Split(p, "/"), "..") && !strings.ContainsRune(p, 0)
}

// closure returns the files of the named modules and of all that they need, in an order in
// which they can be loaded. missing are names that the kernel has neither as a module nor
// built in.
func (m *modules) closure(names ...string) (files, missing []string) {
	seen := map[string]bool{}
	var add func(file string)
	add = func(file string) {
		if seen[file] {
			return
		}
		seen[file] = true
		// depmod lists what is needed directly and indirectly, the deepest last.
		for _, f := range slices.Backward(m.needs[file]) {
			add(f)
		}
		files = append(files, file)
	}
	for _, name := range names {
		file, ok := m.files[name]
		switch {
		case ok:
			add(file)
		case !m.builtin[name]:
			missing = append(missing, name)
		}
	}
	return files, missing
}
