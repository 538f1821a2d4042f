package fixup

import (
	"debug/elf"
	"encoding/binary"
	"io"
	"path"
	"slices"
	"strings"
)

// loadList is where an initramfs of initramfs-tools (Debian, Ubuntu) names what to load.
const loadList = "conf/modules"

// look finds what keeps the machine from booting, and says what cannot be helped.
func (f *fixer) look() (boots []boot) {
	if arch := f.processor(); arch != "" {
		f.cannot("the machine's programs are for %s processors, it would come up on x86-64", arch)
	}
	if text, ok := f.read("etc/fstab"); ok {
		_, _, cannot := fixFstab(text, &f.devices)
		f.report.Cannot = append(f.report.Cannot, cannot...)
	}
	entries := f.entries()
	for _, e := range entries {
		_, _, cannot := fixArgs(e.args, &f.devices)
		for _, c := range cannot {
			if !slices.Contains(f.report.Cannot, c) {
				f.report.Cannot = append(f.report.Cannot, c)
			}
		}
	}
	if len(f.spec.Drivers) == 0 {
		return nil
	}
	images := f.initramfses(entries)
	if len(images) == 0 {
		f.unified(entries)
		return nil
	}
	good := 0
	for _, p := range images {
		b, ok := f.lookInto(p)
		switch {
		case !ok:
		case len(b.files) == 0:
			good++
		default:
			good++
			boots = append(boots, b)
		}
	}
	if good == 0 && len(f.report.Cannot) == 0 {
		f.cannot("no initramfs of the machine could be looked into")
	}
	return boots
}

// processor says for what processors the machine's programs are, if that is known and not
// what every target has.
func (f *fixer) processor() string {
	for _, p := range []string{"usr/lib/systemd/systemd", "lib/systemd/systemd", "usr/bin/sh", "bin/sh", "bin/busybox", "sbin/init"} {
		file, err := f.root.Open(p)
		if err != nil {
			continue
		}
		head := make([]byte, 20)
		_, err = io.ReadFull(file, head)
		file.Close()
		if err != nil || string(head[:4]) != elf.ELFMAG || elf.Data(head[elf.EI_DATA]) != elf.ELFDATA2LSB {
			continue
		}
		switch m := elf.Machine(binary.LittleEndian.Uint16(head[18:])); m {
		case elf.EM_X86_64, elf.EM_386:
			return ""
		default:
			return strings.ToLower(strings.TrimPrefix(m.String(), "EM_"))
		}
	}
	return ""
}

// entries lists the kernels that the boot loader offers.
func (f *fixer) entries() (all []bootEntry) {
	same := func(args []string) []string { return args }
	for _, p := range f.grubConfigs() {
		if text, ok := f.read(p); ok {
			_, e := fixGrub(text, same)
			all = append(all, e...)
		}
	}
	for _, p := range f.glob("boot/loader/entries/*.conf") {
		if text, ok := f.read(p); ok {
			_, e := fixBLS(text, same)
			all = append(all, e)
		}
	}
	return all
}

// initramfses lists those that the boot loader names, or else all that are there.
func (f *fixer) initramfses(entries []bootEntry) (all []string) {
	add := func(p string) {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	for _, e := range entries {
		for _, p := range e.initrds {
			p = strings.TrimPrefix(path.Clean("/"+p), "/")
			// A path is relative to the file system that /boot is on, or is.
			for _, c := range []string{"boot/" + p, p, strings.TrimPrefix(p, "@/"), strings.TrimPrefix(p, "@/.snapshots/1/snapshot/")} {
				if i, err := f.root.Stat(c); err == nil && i.Mode().IsRegular() {
					add(c)
					break
				}
			}
		}
	}
	if len(all) > 0 {
		return all
	}
	for _, g := range []string{"boot/initrd*", "boot/initramfs*"} {
		for _, p := range f.glob(g) {
			if !strings.HasSuffix(p, backupSuffix) {
				add(p)
			}
		}
	}
	return all
}

// unified says what a machine without an initramfs is.
func (f *fixer) unified(entries []bootEntry) {
	for _, g := range []string{"boot/efi/EFI/Linux/*.efi", "efi/EFI/Linux/*.efi", "boot/EFI/Linux/*.efi"} {
		if all := f.glob(g); len(all) > 0 {
			f.cannot("the machine boots a unified kernel image (/%s): what is in it cannot be changed from outside", all[0])
			return
		}
	}
	for _, e := range entries {
		version := strings.TrimPrefix(path.Base(e.kernel), "vmlinuz-")
		if m, _, err := f.kernelModules(version); err == nil {
			if _, missing := m.closure(f.spec.Drivers...); len(missing) == 0 && !slices.ContainsFunc(f.spec.Drivers, func(d string) bool { return !m.builtin[d] }) {
				f.note("kernel %s needs no initramfs and has every driver built in", version)
				return
			}
		}
	}
	f.cannot("no initramfs was found in /boot: how the machine boots is not known here")
}

// kernelModules reads what a kernel's folder tells.
func (f *fixer) kernelModules(version string) (*modules, string, error) {
	dir := "usr/lib/modules/" + version
	if !f.isDir(dir) {
		dir = "lib/modules/" + version
	}
	dep, err := f.load(dir+"/modules.dep", maxAppend)
	if err != nil {
		return nil, "", err
	}
	builtin, _ := f.load(dir+"/modules.builtin", maxAppend) // a kernel may have none
	m, err := parseModules(dep, builtin)
	return m, dir, err
}

// lookInto says what an initramfs lacks; ok is false if that cannot be said, or not be
// helped.
func (f *fixer) lookInto(p string) (b boot, ok bool) {
	file, err := f.root.Open(p)
	if err != nil {
		f.cannot("/%s: %v", p, err)
		return b, false
	}
	defer file.Close()
	i, err := file.Stat()
	if err != nil {
		f.cannot("/%s: %v", p, err)
		return b, false
	}
	fs, err := scanInitramfs(file, i.Size(), maxUnpacked, func(name string) bool { return name == loadList })
	if err != nil {
		f.cannot("/%s cannot be looked into: %v", p, err)
		return b, false
	}
	if b, ok = f.lacks(b.from(p, fs)); !ok || len(b.files) == 0 {
		return b, ok
	}
	archive, err := f.archive(b)
	if err != nil {
		f.cannot("/%s: %v", p, err)
		return b, false
	}
	b.tail = padded(archive, i.Size())
	if free, err := freeSpace(file); err == nil && free < int64(len(b.tail))+1<<20 {
		f.cannot("the drivers for /%s need %d KiB, and %d KiB are free there", p, len(b.tail)>>10, free>>10)
		return b, false
	}
	return b, true
}

// from fills in what an initramfs tells of itself.
func (b boot) from(p string, fs *initramfs) (boot, map[string]bool) {
	b.path, b.fs = p, fs
	has := map[string]bool{}
	for name := range fs.members {
		m := moduleName(name)
		if m == "" {
			continue
		}
		has[m] = true
		for _, lib := range []string{"lib/modules/", "usr/lib/modules/"} {
			if rest, ok := strings.CutPrefix(name, lib); ok && b.version == "" {
				b.version, _, _ = strings.Cut(rest, "/")
				b.inside = lib + b.version
			}
		}
	}
	return b, has
}

// lacks finds what is to be added to an initramfs that has these modules.
func (f *fixer) lacks(b boot, has map[string]bool) (boot, bool) {
	if b.version == "" {
		f.note("/%s holds no drivers: it is left alone", b.path) // microcode, or all is built in
		return b, false
	}
	if !slices.ContainsFunc(f.spec.Drivers, func(d string) bool { return !has[d] }) {
		return b, true
	}
	tables, dir, err := f.kernelModules(b.version)
	if err != nil {
		f.cannot("/%s lacks drivers of kernel %s, whose modules cannot be read: %v", b.path, b.version, err)
		return b, false
	}
	b.modules = dir
	files, missing := tables.closure(f.spec.Drivers...)
	for _, m := range missing {
		if !has[m] {
			f.cannot("kernel %s has no driver %s", b.version, m)
		}
	}
	for _, file := range files {
		if !has[moduleName(file)] {
			b.files = append(b.files, file)
		}
	}
	for _, d := range f.spec.Drivers {
		if !has[d] && !tables.builtin[d] {
			b.names = append(b.names, d)
		}
	}
	if len(b.files) == 0 {
		return b, len(missing) == 0
	}
	for m := range has {
		if tables.files[m] == "" { // the tables that are appended take the place of its own
			f.cannot("/%s has the module %s, which is not in /%s: it is not of that kernel as it is now", b.path, m, dir)
			return b, false
		}
	}
	if why := f.stranger(b); why != "" {
		f.cannot("/%s lacks %s, and %s", b.path, strings.Join(b.names, ", "), why)
		return b, false
	}
	return b, len(missing) == 0
}

// stranger says why drivers that are put into an initramfs would not be loaded; "" if they
// would.
func (f *fixer) stranger(b boot) string {
	if b.fs.rest {
		// An archive of ours would be read all the same: what is not known is only whether
		// another one there names other drivers.
		f.note("/%s: what follows its last archive was not looked at", b.path)
	}
	if _, ok := b.fs.contents[loadList]; ok {
		return "" // initramfs-tools
	}
	for name := range b.fs.members {
		switch path.Base(name) {
		case "systemd-udevd", "udevd", "udevadm":
			return "" // dracut, mkinitcpio, booster: loaded by what the devices say they are
		}
	}
	return "it is of no make that is known here (initramfs-tools, or one with udev)"
}
