package fixup

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

// hostWith makes a host's root with kernels: what is in modules.dep, by version.
func hostWith(t testing.TB, kernels map[string]string) string {
	t.Helper()
	all := files{}
	for v, dep := range kernels {
		all["boot/vmlinuz-"+v] = "kernel"
		all["lib/modules/"+v+"/modules.dep"] = dep
		all["lib/modules/"+v+"/modules.builtin"] = "kernel/virtio_pci.ko\n"
	}
	return plant(t, all).Name()
}

const goodDep = "virtio_blk.ko:\next4.ko: jbd2.ko\njbd2.ko:\n"

// The kernel of a host is found, the smaller first, and what is missing is said with what to
// install.
func TestFindKernel(t *testing.T) {
	k, err := findKernel(hostWith(t, map[string]string{"6.1.0-9-amd64": goodDep, "6.1.0-8-cloud-amd64": goodDep, "7": "broken"}))
	if err != nil || filepath.Base(k.Modules) != "6.1.0-8-cloud-amd64" || filepath.Base(k.Image) != "vmlinuz-6.1.0-8-cloud-amd64" {
		t.Errorf("%+v %v", k, err)
	}
	k, err = findKernel(plant(t, files{"lib/modules/6/vmlinuz": "", "lib/modules/6/modules.dep": "virtio_pci.ko:\n" + goodDep}).Name())
	if err != nil || filepath.Base(k.Image) != "vmlinuz" {
		t.Errorf("%+v %v", k, err)
	}
	for _, root := range []string{t.TempDir(), hostWith(t, map[string]string{"6": "ext4.ko:\n"})} {
		if k, err := findKernel(root); err == nil || !strings.Contains(err.Error(), "apt-get install linux-image") || !strings.Contains(err.Error(), KernelEnv) {
			t.Errorf("%+v %v", k, err)
		}
	}
	if _, err := findKernel(hostWith(t, map[string]string{"6": "ext4.ko:\n"})); !strings.Contains(err.Error(), "virtio_blk") {
		t.Errorf("what it lacks is not said: %v", err)
	}
	t.Setenv(KernelEnv, t.TempDir())
	if _, err := FindKernel(""); err == nil || !strings.Contains(err.Error(), KernelEnv) {
		t.Errorf("%v", err)
	}
}

// A helper's initramfs holds its modules unpacked, in the order in which they can be loaded.
func TestWriteHelper(t *testing.T) {
	targettest.Need(t, "busybox")
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	root := plant(t, files{
		"vmlinuz": "", "lib/modules/6/modules.builtin": "kernel/virtio_pci.ko\n",
		"lib/modules/6/modules.dep":      "virtio_blk.ko.xz:\next4.ko.gz: jbd2.ko.zst\njbd2.ko.zst:\n",
		"lib/modules/6/virtio_blk.ko.xz": string(pack(t, "xz", []byte("blk"))),
		"lib/modules/6/ext4.ko.gz":       string(pack(t, "gzip", []byte("ext4"))),
		"lib/modules/6/jbd2.ko.zst":      string(pack(t, "zstd", []byte("jbd2"))),
	})
	t.Setenv(KernelEnv, root.Name())
	k, err := FindKernel("")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	spec := Spec{Do: Fix, Disks: []string{"sda"}, Drivers: virtio}
	if err := WriteHelper(&b, k, busybox, spec); err != nil {
		t.Fatal(err)
	}
	fs, err := scanInitramfs(bytes.NewReader(b.Bytes()), int64(b.Len()), maxUnpacked, func(name string) bool { return name != "leeward" })
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"lib/virtio_blk.ko": "blk", "lib/ext4.ko": "ext4", "lib/jbd2.ko": "jbd2", "modules": "/lib/virtio_blk.ko\n/lib/jbd2.ko\n/lib/ext4.ko\n"} {
		if got := string(fs.contents[name]); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	var back Spec
	if err := json.Unmarshal(fs.contents["spec.json"], &back); err != nil || back.Do != Fix || len(back.Drivers) != 2 {
		t.Errorf("the spec: %s, %v", fs.contents["spec.json"], err)
	}
	if fs.members["leeward"]&0o111 == 0 || fs.members["dev/console"]&modeType != modeChar {
		t.Errorf("%o %o", fs.members["leeward"], fs.members["dev/console"])
	}
	if sh, err := filepath.EvalSymlinks("/bin/bash"); err == nil {
		if err := WriteHelper(&b, k, sh, spec); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
			t.Errorf("a program that needs libraries: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(k.Modules, "ext4.ko.gz"), []byte("no gzip"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteHelper(&b, k, busybox, spec); err == nil || !strings.Contains(err.Error(), "ext4") {
		t.Errorf("a module that is damaged: %v", err)
	}
	if err := Main(); err == nil {
		t.Error("Main runs on this host")
	}
}

// What is on a partition is told by those who make it.
func TestIdentify(t *testing.T) {
	const uuid = "b007b007-0000-4000-8000-000000000002"
	for kind, make := range map[string][]string{
		"ext":   {"mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-L", "tag"},
		"xfs":   {"mkfs.xfs", "-q", "-f", "-m", "uuid=" + uuid, "-L", "tag"},
		"btrfs": {"mkfs.btrfs", "-q", "-f", "-U", uuid, "-L", "tag"},
		"swap":  {"mkswap", "-U", uuid, "-L", "tag"},
		"vfat":  {"mkfs.vfat", "-i", "AB12CD34", "-n", "TAG"},
	} {
		targettest.Need(t, make[0])
		image := filepath.Join(t.TempDir(), kind)
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, 320<<20); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(make[0], append(make[1:], image)...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", make, err, out)
		}
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		k, u, l := identify(f)
		f.Close()
		wantUUID, wantLabel := uuid, "tag"
		if kind == "vfat" {
			wantUUID, wantLabel = "AB12-CD34", "TAG"
		}
		if k != kind || u != wantUUID || l != wantLabel {
			t.Errorf("%s is %q, %q, %q", kind, k, u, l)
		}
	}
	for kind, begin := range map[string]string{"luks": "LUKS\xba\xbe", "lvm": strings.Repeat("\x00", 536) + "LVM2 001", "": "nothing"} {
		if k, _, _ := identify(strings.NewReader(begin)); k != kind {
			t.Errorf("%.8q is %q", begin, k)
		}
	}
}
