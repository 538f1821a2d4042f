package fixup

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files is a machine's tree in a test: content by path; "-> X" is a link to X.
type files map[string]string

// plant makes a machine's tree.
func plant(t testing.TB, all files) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(all[name], "-> "); ok {
			err = os.Symlink(to, p)
		} else {
			err = os.WriteFile(p, []byte(all[name]), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// harvest reads a tree again.
func harvest(t testing.TB, root *os.Root) files {
	t.Helper()
	all := files{}
	err := fs.WalkDir(os.DirFS(root.Name()), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(filepath.Join(root.Name(), p))
			all[p] = "-> " + to
			return err
		}
		b, err := os.ReadFile(filepath.Join(root.Name(), p))
		all[p] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// same fails the test unless two trees are the same.
func same(t testing.TB, what string, got, want files) {
	t.Helper()
	for p := range got {
		if w, ok := want[p]; !ok {
			t.Errorf("%s: there is a %s: %.200q", what, p, got[p])
		} else if w != got[p] {
			t.Errorf("%s: %s is\n%.600q\nwant\n%.600q", what, p, got[p], w)
		}
	}
	for p := range want {
		if _, ok := got[p]; !ok {
			t.Errorf("%s: %s is gone", what, p)
		}
	}
}

// disks are those of the machines in the tests: sda with an ESP, /boot, the root and swap,
// and sdb with data.
var testDisks = devices{
	disks: []string{"sda", "sdb"},
	all: []device{
		{node: "vda", disk: 0},
		{node: "vda1", disk: 0, part: 1, kind: "vfat", uuid: "AB12-CD34"},
		{node: "vda2", disk: 0, part: 2, kind: "ext", uuid: "b007b007-0000-4000-8000-000000000002", label: "boot"},
		{node: "vda3", disk: 0, part: 3, kind: "xfs", uuid: "4007f5ee-0000-4000-8000-000000000003", label: "root"},
		{node: "vda4", disk: 0, part: 4, kind: "swap", uuid: "5a4b5a4b-0000-4000-8000-000000000004"},
		{node: "vdb", disk: 1, kind: "ext", uuid: "da7ada7a-0000-4000-8000-000000000005", label: "data"},
	},
}

// testVersion is the kernel of the machines in the tests.
const testVersion = "6.1.0-9-amd64"

// kernelTree is what a kernel's package puts into a machine.
func kernelTree(lib string) files {
	dir := lib + "/modules/" + testVersion + "/"
	all := files{
		dir + "modules.builtin": "kernel/fs/ext4/ext4.ko\n",
		dir + "modules.alias":   "alias virtio:d00000002v* virtio_blk\n",
		dir + "modules.dep": "kernel/drivers/ata/ahci.ko: kernel/drivers/ata/libahci.ko\n" +
			"kernel/drivers/ata/libahci.ko:\n" +
			"kernel/drivers/virtio/virtio.ko:\n" +
			"kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko\n" +
			"kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n" +
			"kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n",
	}
	for _, m := range []string{"ata/ahci", "ata/libahci", "virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci", "block/virtio_blk"} {
		all[dir+"kernel/drivers/"+m+".ko"] = "the module " + m
	}
	return all
}

// with puts trees together.
func with(all ...files) files {
	out := files{}
	for _, f := range all {
		maps.Copy(out, f)
	}
	return out
}
