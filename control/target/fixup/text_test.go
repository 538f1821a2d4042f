package fixup

import (
	"slices"
	"strings"
	"testing"
)

const testFstab = `# /etc/fstab
/dev/sda3  /          xfs   defaults        0 1
LABEL=boot /boot      ext4  defaults        0 2
/dev/sda1  /boot/efi  vfat  umask=0077      0 1
/dev/sda4  none       swap  sw              0 0
UUID=da7ada7a-0000-4000-8000-000000000005 /srv ext4 defaults 0 2
/dev/sdc1  /backup    ext4  noatime         0 2
UUID=ffffffff-0000-4000-8000-000000000009 /mnt/usb ext4 defaults 0 2
/dev/disk/by-path/pci-0000:00:1f.2-ata-2 /scratch xfs defaults,nofail 0 0
nas:/export /nas nfs defaults 0 0
tmpfs /tmp tmpfs size=1g 0 0
/dev/mapper/vg-lv /var ext4
`

const wantFstab = `# /etc/fstab
UUID=4007f5ee-0000-4000-8000-000000000003 / xfs defaults 0 1
LABEL=boot /boot      ext4  defaults        0 2
UUID=AB12-CD34 /boot/efi vfat umask=0077 0 1
UUID=5a4b5a4b-0000-4000-8000-000000000004 none swap sw 0 0
UUID=da7ada7a-0000-4000-8000-000000000005 /srv ext4 defaults 0 2
/dev/sdc1 /backup ext4 noatime,nofail 0 2
UUID=ffffffff-0000-4000-8000-000000000009 /mnt/usb ext4 defaults,nofail 0 2
/dev/disk/by-path/pci-0000:00:1f.2-ata-2 /scratch xfs defaults,nofail 0 0
nas:/export /nas nfs defaults,nofail 0 0
tmpfs /tmp tmpfs size=1g 0 0
/dev/mapper/vg-lv /var ext4
`

func TestFstab(t *testing.T) {
	got, said, cannot := fixFstab(testFstab, &testDisks)
	if got != wantFstab || len(said) != 6 || len(cannot) != 0 {
		t.Errorf("%s\n%q\n%q", got, said, cannot)
	}
	if again, said, _ := fixFstab(got, &testDisks); again != got || len(said) != 0 {
		t.Errorf("fixed twice:\n%s\n%q", again, said)
	}
	if _, _, cannot := fixFstab("/dev/sdx1 / ext4 defaults 0 1\n", &testDisks); len(cannot) != 1 {
		t.Errorf("a root that is nowhere: %q", cannot)
	}
}

// A disk is found by what it was called; the only one also by any name.
func TestPlaces(t *testing.T) {
	for spec, want := range map[string]string{
		"/dev/sda3": "vda3", "/dev/sdb": "vdb", "/dev/sdc1": "", "/dev/nvme0n1p3": "", "/dev/sda33333333333": "", "/dev/": "", "UUID=": "", "LABEL=data": "vdb",
		"/dev/disk/by-uuid/AB12-CD34": "vda1", "/dev/disk/by-label/root": "vda3", `UUID="ab12-cd34"`: "vda1",
	} {
		if x, ok := testDisks.find(spec); ok != (want != "") || ok && x.node != want {
			t.Errorf("%s is %+v, want %q", spec, x, want)
		}
	}
	only := devices{disks: []string{"nvme0n1"}, all: []device{{node: "vda"}, {node: "vda2", part: 2}}}
	for spec, want := range map[string]string{"/dev/nvme0n1p2": "vda2", "/dev/sda2": "vda2", "/dev/vda": "vda", "/dev/nvme0n1": "vda", "/dev/md0": "", "/dev/mapper/x2": "", "/dev/nvme1n1": "vda"} {
		if x, ok := only.find(spec); ok != (want != "") || ok && x.node != want {
			t.Errorf("%s is %+v, want %q", spec, x, want)
		}
	}
}

const testGrub = `set default=0
menuentry 'Debian' {
	search --no-floppy --fs-uuid --set=root b007
	linux	/vmlinuz-6.1.0-9-amd64 root=/dev/sda3 ro quiet
	initrd	/intel-ucode.img /initrd.img-6.1.0-9-amd64
}
menuentry 'serial' {
	linux16 ($root)/vmlinuz-5 root=UUID=x console=ttyS0
	initrd16 ($root)/initrd-5
}
`

func TestGrub(t *testing.T) {
	edit := func(a []string) []string { fixed, _, _ := fixArgs(a, &testDisks); return fixed }
	got, all := fixGrub(testGrub, edit)
	want := strings.Replace(testGrub, "linux	/vmlinuz-6.1.0-9-amd64 root=/dev/sda3 ro quiet",
		"linux /vmlinuz-6.1.0-9-amd64 root=UUID=4007f5ee-0000-4000-8000-000000000003 ro quiet console=tty0 console=ttyS0,115200", 1)
	if got != want {
		t.Errorf("%s", got)
	}
	if len(all) != 2 || !slices.Equal(all[0].initrds, []string{"/intel-ucode.img", "/initrd.img-6.1.0-9-amd64"}) || all[1].kernel != "/vmlinuz-5" || all[1].initrds[0] != "/initrd-5" {
		t.Errorf("%+v", all)
	}
	if again, _ := fixGrub(got, edit); again != got {
		t.Errorf("fixed twice:\n%s", again)
	}
	bls := "title Fedora\nlinux /vmlinuz-6.2\ninitrd /initramfs-6.2.img $tuned_initrd\noptions $kernelopts ro\n"
	got, e := fixBLS(bls, edit)
	if got != strings.Replace(bls, "ro\n", "ro console=tty0 console=ttyS0,115200\n", 1) || e.kernel != "/vmlinuz-6.2" || !slices.Equal(e.initrds, []string{"/initramfs-6.2.img"}) {
		t.Errorf("%s %+v", got, e)
	}
	if _, _, cannot := fixArgs([]string{"root=/dev/sdq1"}, &testDisks); len(cannot) != 1 {
		t.Errorf("a root that is nowhere: %q", cannot)
	}
	for in, want := range map[string]string{
		"GRUB_CMDLINE_LINUX=\"net.ifnames=0\"\n": "GRUB_CMDLINE_LINUX=\"net.ifnames=0 console=tty0 console=ttyS0,115200\"\n",
		"GRUB_CMDLINE_LINUX=''\nX=1\n":           "GRUB_CMDLINE_LINUX='console=tty0 console=ttyS0,115200'\nX=1\n",
		"GRUB_CMDLINE_LINUX=$(evil)\n":           "GRUB_CMDLINE_LINUX=$(evil)\n",
		"GRUB_CMDLINE_LINUX=\"console=ttyS1\"\n": "GRUB_CMDLINE_LINUX=\"console=ttyS1\"\n",
	} {
		if got := fixGrubDefault(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func TestModules(t *testing.T) {
	dep := "kernel/a-b.ko.xz: kernel/c.ko.zst kernel/d.ko\nkernel/c.ko.zst: kernel/d.ko\nkernel/d.ko:\n\n"
	m, err := parseModules([]byte(dep), []byte("kernel/fs/ext4/ext4.ko\n"))
	if err != nil {
		t.Fatal(err)
	}
	files, missing := m.closure("a_b", "ext4", "nothing", "d")
	if !slices.Equal(files, []string{"kernel/d.ko", "kernel/c.ko.zst", "kernel/a-b.ko.xz"}) || !slices.Equal(missing, []string{"nothing"}) {
		t.Errorf("%q, missing %q", files, missing)
	}
	for _, bad := range []string{"kernel/a.ko kernel/b.ko\n", "../a.ko:\n", "/etc/a.ko:\n", "kernel/a.ko: ../../etc/shadow.ko\n", "kernel/a:\n"} {
		if _, err := parseModules([]byte(bad), nil); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	loop, err := parseModules([]byte("a.ko: b.ko\nb.ko: a.ko\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if files, _ := loop.closure("a"); len(files) != 2 {
		t.Errorf("modules that need each other: %q", files)
	}
}

func FuzzTexts(f *testing.F) {
	f.Add(testFstab)
	f.Add(testGrub)
	f.Add("kernel/a.ko: kernel/b.ko\n")
	f.Fuzz(func(t *testing.T, s string) {
		once, _, cannot := fixFstab(s, &testDisks)
		if twice, said, _ := fixFstab(once, &testDisks); twice != once && len(cannot) == 0 {
			t.Errorf("fstab is fixed for ever: %q, %q, %q: %q", s, once, twice, said)
		}
		edit := func(a []string) []string { fixed, _, _ := fixArgs(a, &testDisks); return fixed }
		once, _ = fixGrub(s, edit)
		if twice, _ := fixGrub(once, edit); twice != once {
			t.Errorf("grub.cfg is fixed for ever: %q, %q, %q", s, once, twice)
		}
		once, _ = fixBLS(s, edit)
		if twice, _ := fixBLS(once, edit); twice != once {
			t.Errorf("an entry is fixed for ever: %q, %q, %q", s, once, twice)
		}
		if once := fixGrubDefault(s); fixGrubDefault(once) != once {
			t.Errorf("/etc/default/grub is fixed for ever: %q, %q", s, once)
		}
		if m, err := parseModules([]byte(s), []byte(s)); err == nil {
			m.closure("a", "b", "virtio_blk")
		}
		identify(strings.NewReader(s))
		_, _ = parseRecord([]byte(s))
		_, _ = ReadReport(strings.NewReader(s))
	})
}
