package fixup

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var virtio = []string{"virtio_pci", "virtio_blk"}

func fixTree(t testing.TB, root *os.Root) *Report {
	t.Helper()
	r := new(Report)
	if err := fix(root, testDisks, Spec{Do: Fix, Drivers: virtio, Files: true}, r); err != nil {
		t.Fatal(err)
	}
	return r
}

// debianTree is a server with Debian whose initramfs has its own hardware's drivers only.
func debianTree(t testing.TB) files {
	const inside = "usr/lib/modules/" + testVersion + "/"
	initrd := append(cpioOf(t, [2]string{"kernel/x86/microcode/AuthenticAMD.bin", "micro"}),
		pack(t, "lz4", cpioOf(t, [2]string{"usr/", ""}, [2]string{"usr/lib/", ""}, [2]string{"conf/", ""}, [2]string{loadList, "ahci"},
			[2]string{"usr/lib/modules/", ""}, [2]string{inside[:len(inside)-1] + "/", ""}, [2]string{inside + "modules.dep", "old"},
			[2]string{inside + "kernel/drivers/ata/ahci.ko", "ahci"}, [2]string{inside + "kernel/drivers/ata/libahci.ko", "libahci"}))...)
	return with(kernelTree("usr/lib"), files{
		"lib":                                          "-> usr/lib",
		"etc/fstab":                                    testFstab,
		"etc/default/grub":                             "GRUB_CMDLINE_LINUX=\"\"\n",
		"boot/grub/grub.cfg":                           testGrub,
		"boot/initrd.img-6.1.0-9-amd64":                string(initrd),
		"etc/network/interfaces":                       "auto eno1\niface eno1 inet static\n address 192.0.2.7/24\n",
		"etc/network/interfaces.d/storage":             "auto eno2\niface eno2 inet static\n address 192.0.2.8/24\n",
		"etc/udev/rules.d/70-persistent-net.rules":     "SUBSYSTEM==\"net\"\n",
		"usr/lib/systemd/system/leeward-agent.service": "[Service]\n",
	})
}

// A Debian server becomes fit for virtio, and as it was again.
func TestDebian(t *testing.T) {
	was := debianTree(t)
	root := plant(t, was)
	r := fixTree(t, root)
	if len(r.Cannot) != 0 || len(r.Changes) < 8 {
		t.Fatalf("%+v", r)
	}
	fixed := harvest(t, root)
	if fixed["etc/fstab"] != wantFstab || fixed["etc/fstab.pre-failover"] != testFstab {
		t.Errorf("fstab: %s", fixed["etc/fstab"])
	}
	if !strings.Contains(fixed["etc/network/interfaces"], "iface enp0s3 inet dhcp") || fixed["etc/network/interfaces.d/storage"] != "" {
		t.Errorf("interfaces: %s", fixed["etc/network/interfaces"])
	}
	if fixed["etc/udev/rules.d/70-persistent-net.rules"] != "" || fixed["etc/systemd/system/leeward-agent.service.d/failover.conf"] == "" {
		t.Error("the names of network cards, or the agent")
	}
	const initrd = "boot/initrd.img-6.1.0-9-amd64"
	b := []byte(fixed[initrd])
	if !bytes.HasPrefix(b, []byte(was[initrd])) || len(b)%512 != 0 {
		t.Errorf("the initramfs of %d bytes has %d", len(was[initrd]), len(b))
	}
	fs, err := scan(b)
	if err != nil {
		t.Fatal(err)
	}
	if string(fs.contents[loadList]) != "ahci\nvirtio_pci\nvirtio_blk\n" {
		t.Errorf("to load: %q", fs.contents[loadList])
	}
	for _, m := range []string{"virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci", "block/virtio_blk"} {
		if _, ok := fs.members["usr/lib/modules/"+testVersion+"/kernel/drivers/"+m+".ko"]; !ok {
			t.Errorf("%s was not appended", m)
		}
	}
	tail, err := scan(b[len(was[initrd]):])
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"usr", "usr/lib", "lib"} {
		if _, ok := tail.members[d]; ok {
			t.Errorf("the folder %s was appended: it would take the place of a link", d)
		}
	}
	if again := fixTree(t, root); !slices.Equal(again.Changes, r.Changes) {
		t.Errorf("fixed twice: %q", again.Changes)
	}
	same(t, "fixed twice", harvest(t, root), fixed)
	said, err := undo(tree{root})
	if err != nil {
		t.Fatal(err)
	}
	if len(said) < 8 || slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, "stays") }) {
		t.Errorf("%q", said)
	}
	same(t, "undone", harvest(t, root), was)
	if said, err := undo(tree{root}); err != nil || len(said) != 0 {
		t.Errorf("undone twice: %q %v", said, err)
	}
}

// What broke off anywhere is undone or done again, and nothing is lost.
func TestBreaksOff(t *testing.T) {
	was := debianTree(t)
	whole := fixTree(t, plant(t, was)).Changes
	for n := range whole {
		root := plant(t, was)
		f := &fixer{tree: tree{root}, devices: testDisks, spec: Spec{Drivers: virtio, Files: true}, report: new(Report), record: record{Version: 1}}
		boots := f.look()
		f.files()
		for _, b := range boots {
			f.append(b)
		}
		if f.err != nil || f.record.Whole {
			t.Fatal(f.err)
		}
		// As if the last changes had been written down and not, or half, been made.
		changes := f.record.Changes
		for _, c := range slices.Backward(changes[n:]) {
			p := filepath.Join(root.Name(), c.Path)
			if b, err := os.ReadFile(p); err == nil && c.Kind != moved {
				if err := os.WriteFile(p, b[:max(len(b)/2, int(c.Size))], 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n%2 == 0 {
			if _, err := undo(tree{root}); err != nil {
				t.Fatalf("broke off at change %d: %v", n, err)
			}
			same(t, "undone", harvest(t, root), was)
			continue
		}
		if again := fixTree(t, root); !slices.Equal(again.Changes, whole) {
			t.Errorf("broke off at change %d: %q", n, again.Changes)
		}
		if _, err := undo(tree{root}); err != nil {
			t.Fatal(err)
		}
		same(t, "done again and undone", harvest(t, root), was)
	}
}

// Taking back may break off too, and is done to its end before anything is done again.
func TestUndoBreaksOff(t *testing.T) {
	was := debianTree(t)
	root := plant(t, was)
	whole := fixTree(t, root).Changes
	b, err := os.ReadFile(filepath.Join(root.Name(), recordFile))
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	r.Undoing = true
	if err := r.save(tree{root}); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Changes[len(r.Changes)/2:] {
		if _, err := undoOne(tree{root}, c, false); err != nil {
			t.Fatal(err)
		}
	}
	if again := fixTree(t, root).Changes; !slices.Equal(again, whole) {
		t.Errorf("fixed again: %q", again)
	}
	if _, err := undo(tree{root}); err != nil {
		t.Fatal(err)
	}
	same(t, "undone", harvest(t, root), was)
}

// What the machine has changed since is the machine's.
func TestMachineChangedIt(t *testing.T) {
	root := plant(t, debianTree(t))
	fixTree(t, root)
	mine := files{
		"etc/fstab": "the administrator's\n", "boot/initrd.img-6.1.0-9-amd64": strings.Repeat("a new initramfs", 9999),
		"etc/udev/rules.d/70-persistent-net.rules": "new\n", "etc/systemd/system/leeward-agent.service.d/failover.conf": "other\n",
	}
	for p, c := range mine {
		if err := os.WriteFile(filepath.Join(root.Name(), p), []byte(c), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said, err := undo(tree{root})
	if err != nil {
		t.Fatal(err)
	}
	now := harvest(t, root)
	for p, c := range mine {
		if now[p] != c || !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "/"+p+": stays") }) {
			t.Errorf("%s is %.40q; %q", p, now[p], said)
		}
	}
	if now["etc/fstab.pre-failover"] != testFstab {
		t.Error("what fstab was is lost")
	}
	// The next failover finds what is left, and leaves it.
	fixTree(t, root)
	if now = harvest(t, root); now["etc/fstab.pre-failover"] != testFstab || now["etc/fstab"] != mine["etc/fstab"] && now["etc/fstab.pre-failover.2"] == "" {
		t.Errorf("%q", slices.Sorted(maps.Keys(now)))
	}
}

// The network managers that are known, each with what it had.
func TestNetworks(t *testing.T) {
	base := with(kernelTree("lib"), files{"etc/passwd": "root\n", "boot/grub/grub.cfg": "linux /vmlinuz root=UUID=a-b console=ttyS0\n", "boot/initrd": string(cpioOf(t, [2]string{"lib/modules/" + testVersion + "/virtio_blk.ko", ""}, [2]string{"lib/modules/" + testVersion + "/virtio_pci.ko", ""}))})
	for name, c := range map[string]struct {
		has  files
		want map[string]string // part of what must be there
		gone []string
	}{
		"netplan": {
			files{"etc/netplan/50-cloud-init.yaml": "network:\n  version: 2\n  renderer: NetworkManager\n  ethernets: {eno1: {addresses: [192.0.2.3/24]}}\n"},
			map[string]string{"etc/netplan/99-leeward.yaml": "renderer: NetworkManager\n  ethernets:\n    leeward:", "etc/netplan/50-cloud-init.yaml.pre-failover": "192.0.2.3"},
			[]string{"etc/netplan/50-cloud-init.yaml"},
		},
		"networkd": {
			files{"etc/systemd/network/10-lan.network": "[Match]\nMACAddress=52:54:00:00:00:01\n[Network]\nAddress=192.0.2.3/24\n"},
			map[string]string{"etc/systemd/network/00-leeward.network": "DHCP=yes", "etc/systemd/network/10-lan.network": "192.0.2.3"}, nil,
		},
		"NetworkManager": {
			files{"etc/NetworkManager/system-connections/eno1.nmconnection": "[ipv4]\nmethod=manual\n"},
			map[string]string{"etc/NetworkManager/system-connections/leeward.nmconnection": "method=auto"}, nil,
		},
		"ifcfg": {
			files{"etc/sysconfig/network-scripts/ifcfg-eno1": "BOOTPROTO=none\nIPADDR=192.0.2.3\n", "etc/sysconfig/network-scripts/ifcfg-lo": "DEVICE=lo\n"},
			map[string]string{"etc/sysconfig/network-scripts/ifcfg-eth0": "BOOTPROTO=dhcp", "etc/sysconfig/network-scripts/pre-failover.ifcfg-eno1": "192.0.2.3", "etc/sysconfig/network-scripts/ifcfg-lo": "lo"},
			[]string{"etc/sysconfig/network-scripts/ifcfg-eno1"},
		},
		"ifcfg and NetworkManager": {
			files{"etc/sysconfig/network-scripts/ifcfg-eno1": "IPADDR=192.0.2.3\n", "etc/NetworkManager/system-connections/.keep": ""},
			map[string]string{"etc/NetworkManager/system-connections/leeward.nmconnection": "method=auto"},
			[]string{"etc/sysconfig/network-scripts/ifcfg-eno1", "etc/sysconfig/network-scripts/ifcfg-eth0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			was := with(base, c.has)
			root := plant(t, was)
			if r := fixTree(t, root); len(r.Cannot) != 0 || len(r.Notes) != 0 {
				t.Errorf("%+v", r)
			}
			now := harvest(t, root)
			for p, part := range c.want {
				if !strings.Contains(now[p], part) {
					t.Errorf("%s is %q", p, now[p])
				}
			}
			for _, p := range c.gone {
				if _, ok := now[p]; ok {
					t.Errorf("%s is still there", p)
				}
			}
			if _, err := undo(tree{root}); err != nil {
				t.Fatal(err)
			}
			same(t, "undone", harvest(t, root), was)
		})
	}
	root := plant(t, base)
	if r := fixTree(t, root); len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "network") {
		t.Errorf("a network that nobody knows: %+v", r)
	}
}

// What cannot be fixed is said, and nothing is changed.
func TestCannot(t *testing.T) {
	const inside = "lib/modules/" + testVersion + "/"
	ahci := [2]string{inside + "kernel/drivers/ata/ahci.ko", ""}
	kernel := kernelTree("lib")
	bare := maps.Clone(kernel)
	bare[inside+"modules.dep"] = "kernel/drivers/ata/ahci.ko:\n"
	for name, c := range map[string]struct {
		tree files
		want string
	}{
		"no driver":    {with(bare, files{"boot/initrd": string(cpioOf(t, ahci, [2]string{loadList, ""}))}), "has no driver virtio_blk"},
		"unknown make": {with(kernel, files{"boot/initrd": string(cpioOf(t, ahci))}), "no make that is known"},
		"damaged":      {with(kernel, files{"boot/initrd": "07070"}), "cannot be looked into"},
		"other kernel": {with(kernel, files{"boot/initrd": string(cpioOf(t, [2]string{"lib/modules/5.0/ahci.ko", ""}))}), "modules cannot be read"},
		"newer module": {with(kernel, files{"boot/initrd": string(cpioOf(t, ahci, [2]string{inside + "new.ko", ""}, [2]string{loadList, ""}))}), "has the module new"},
		"unified":      {with(kernel, files{"boot/efi/EFI/Linux/debian.efi": "MZ"}), "unified kernel image"},
		"other processors": {with(kernel, files{
			"bin/sh":      "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\xb7\x00",
			"boot/initrd": string(cpioOf(t, ahci, [2]string{loadList, ""})),
		}), "for aarch64 processors"},
		"nothing": {kernel, "no initramfs was found"},
		"root":    {with(kernel, files{"etc/fstab": "/dev/sdz1 / ext4 defaults\n", "boot/initrd": string(cpioOf(t, ahci, [2]string{loadList, ""}))}), "on none of the protected disks"},
	} {
		was := with(files{"etc/passwd": "root\n", "etc/network/interfaces": "auto lo\n"}, c.tree)
		root := plant(t, was)
		if r := fixTree(t, root); !strings.Contains(strings.Join(r.Cannot, "\n"), c.want) || len(r.Changes) != 0 {
			t.Errorf("%s: %+v", name, r)
		}
		same(t, name, harvest(t, root), was)
	}
	// dracut loads what udev finds.
	root := plant(t, with(kernel, files{"boot/initrd": string(cpioOf(t, ahci, [2]string{"usr/lib/systemd/systemd-udevd", ""}))}))
	if r := fixTree(t, root); len(r.Cannot) != 0 || len(r.Changes) != 1 || !strings.Contains(strings.Join(r.Notes, "\n"), "no serial port") {
		t.Errorf("dracut, and a boot loader that is not known: %+v", r)
	}
}

// Links of the machine lead nowhere but into the machine.
func TestLinksOutside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "fstab")
	if err := os.WriteFile(outside, []byte(testFstab), 0o600); err != nil {
		t.Fatal(err)
	}
	root := plant(t, with(kernelTree("lib"), files{"etc/fstab": "-> " + outside, "etc/netplan": "-> " + filepath.Dir(outside), "boot/initrd": "-> ../../../../../../" + outside}))
	r := new(Report)
	_ = fix(root, testDisks, Spec{Do: Fix, Drivers: virtio, Files: true}, r)
	if b, err := os.ReadFile(outside); err != nil || string(b) != testFstab {
		t.Errorf("a file outside the machine was changed: %v", err)
	}
}

func TestReport(t *testing.T) {
	r, err := ReadReport(strings.NewReader("SeaBIOS\r\n\n" + Prefix + `{"changes":["a\u001b[31m\nb"],"cannot":["` + strings.Repeat("x", 5000) + `"]}` + "\r\nmore"))
	if err != nil || r.Changes[0] != "a[31m b" || len(r.Cannot[0]) > maxLine+3 {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", "nothing\n", Prefix + "{", Prefix + `{"changes":` + strings.Repeat("[", 100)} {
		if r, err := ReadReport(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is a report: %+v", bad, r)
		}
	}
}

// The agent in a copy goes on under the name that it is given, with the disks that its file
// systems are on, and what it was told beside that stays.
func TestAgentGoesOn(t *testing.T) {
	const env = "# by hand\nLEEWARD_CONTEXT=/etc/leeward/agent.json\nLEEWARD_AGENT_ARGS=\"--context /etc/leeward/other.json --machine web --disk /dev/sda --disk=/dev/sdb=data --hook postgresql --io-class low\"\n"
	was := with(debianTree(t), files{"etc/leeward/agent.env": env})
	root := plant(t, was)
	r := new(Report)
	spec := Spec{Do: Fix, Drivers: virtio, Files: true, Agent: &Agent{Machine: "web", Instance: "copy-3-web", Server: "tls://bus.example:4222"}}
	if err := fix(root, testDisks, spec, r); err != nil || len(r.Cannot) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	now := harvest(t, root)
	t.Log(now["etc/leeward/failover.env"])
	for _, want := range []string{"LEEWARD_INSTANCE=copy-3-web\n", "LEEWARD_SERVER=tls://bus.example:4222\n", "LEEWARD_DISKS_FILE=\n", "\"--context /etc/leeward/other.json --hook postgresql --io-class low --machine web --disk on:/dev/disk/by-uuid/"} {
		if !strings.Contains(now["etc/leeward/failover.env"], want) {
			t.Errorf("it is not told %q", want)
		}
	}
	if unit := now["etc/systemd/system/leeward-agent.service.d/failover.conf"]; !strings.Contains(unit, "EnvironmentFile=/etc/leeward/failover.env") || strings.Contains(unit, "Condition") {
		t.Errorf("its unit: %s", unit)
	}
	if !strings.Contains(strings.Join(r.Changes, "\n"), "leeward-agent goes on as copy-3-web") {
		t.Errorf("%q", r.Changes)
	}
	if _, err := undo(tree{root}); err != nil {
		t.Fatal(err)
	}
	same(t, "undone", harvest(t, root), was)

	root = plant(t, debianTree(t))
	r = new(Report)
	if err := fix(root, testDisks, spec, r); err != nil || !strings.Contains(strings.Join(r.Notes, "\n"), "no agent is installed") {
		t.Errorf("%+v, %v", r, err)
	}

	// If one disk cannot be named none is protected.
	unknown := testDisks
	unknown.disks = append(slices.Clone(testDisks.disks), "sdz")
	root, r = plant(t, was), new(Report)
	if err := fix(root, unknown, spec, r); err != nil || !strings.Contains(strings.Join(r.Notes, "\n"), "disk sdz holds nothing that tells which it is") {
		t.Errorf("%+v, %v", r, err)
	}
	if unit := harvest(t, root)["etc/systemd/system/leeward-agent.service.d/failover.conf"]; !strings.Contains(unit, "Condition") {
		t.Errorf("its unit: %s", unit)
	}
}
