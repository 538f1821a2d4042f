package fixup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/control/target"
)

// Spec says what is to be done to a machine's disks.
type Spec struct {
	Do      string   `json:"do"`                // Fix or Undo
	Disks   []string `json:"disks"`             // what they are called at home, in the order of the machine
	Drivers []string `json:"drivers,omitempty"` // kernel modules without which the machine would not find its disks
	Files   bool     `json:"files,omitempty"`   // fstab, network, console, agent
	Agent   *Agent   `json:"agent,omitempty"`   // nil: it must not start
}

// What can be done.
const (
	Fix  = "fix"
	Undo = "undo"
)

// Report is what was done.
type Report struct {
	Changes []string `json:"changes,omitempty"` // each that was made, or taken back
	Notes   []string `json:"notes,omitempty"`   // what was left alone, and why
	Cannot  []string `json:"cannot,omitempty"`  // why the machine cannot be fixed; nothing was changed then
	Error   string   `json:"error,omitempty"`   // what failed in the doing; the disks are not to be used
}

// Fitted is a machine's disks as they were changed, over overlays.
type Fitted struct {
	Report
	Disks []target.Restorer
	Fresh bool         // they were changed now, not by an earlier process
	Close func() error // the disks; what was changed stays
}

// fixer changes the files of one machine.
type fixer struct {
	tree
	devices devices
	spec    Spec
	record  record
	report  *Report
	err     error // the first
}

// fix does what spec says to the machine whose files are below root. Whatever had been done
// before is not done again; what had broken off is undone first.
func fix(root *os.Root, d devices, spec Spec, report *Report) error {
	f := &fixer{tree: tree{root}, devices: d, spec: spec, report: report, record: record{Version: 1}}
	if b, err := f.load(recordFile, recordLimit); err == nil {
		r, err := parseRecord(b)
		if err != nil {
			return err
		}
		if r.Whole && !r.Undoing {
			for _, c := range r.Changes {
				report.Changes = append(report.Changes, c.What)
			}
			report.Notes = append(report.Notes, "everything had been fixed before")
			return nil
		}
		if _, err := undo(f.tree); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	boots := f.look()
	if len(report.Cannot) > 0 {
		return nil
	}
	if spec.Files {
		f.files()
	}
	for _, b := range boots {
		f.append(b)
	}
	if f.err == nil && len(f.record.Changes) > 0 {
		f.record.Whole = true
		f.save()
	}
	for _, c := range f.record.Changes {
		report.Changes = append(report.Changes, c.What)
	}
	return f.err
}

func (f *fixer) cannot(format string, args ...any) {
	f.report.Cannot = append(f.report.Cannot, fmt.Sprintf(format, args...))
}

func (f *fixer) note(format string, args ...any) {
	f.report.Notes = append(f.report.Notes, fmt.Sprintf(format, args...))
}

// files fixes what is text.
func (f *fixer) files() {
	if text, ok := f.read("etc/fstab"); ok {
		fixed, said, _ := fixFstab(text, &f.devices) // look asked whether it can
		if fixed != text {
			f.replace("etc/fstab", fixed, "fstab: "+strings.Join(said, "; "))
		}
	}
	edit := func(args []string) []string {
		a, _, _ := fixArgs(args, &f.devices)
		return a
	}
	for _, p := range f.grubConfigs() {
		if text, ok := f.read(p); ok {
			if fixed, _ := fixGrub(text, edit); fixed != text {
				f.replace(p, fixed, "boot loader: serial console and root by UUID")
			}
		}
	}
	for _, p := range f.glob("boot/loader/entries/*.conf") {
		if text, ok := f.read(p); ok {
			if fixed, _ := fixBLS(text, edit); fixed != text {
				f.replace(p, fixed, "boot loader: serial console and root by UUID")
			}
		}
	}
	if text, ok := f.read("etc/default/grub"); ok {
		if fixed := fixGrubDefault(text); fixed != text {
			f.replace("etc/default/grub", fixed, "boot loader: serial console, also after an update of the kernel")
		}
	}
	if len(f.entries()) == 0 {
		f.note("no configuration of a boot loader that is known here was found (GRUB, loader entries): the kernel may write to no serial port")
	}
	if !f.network() {
		f.note("the network's configuration is of no kind that is known here (netplan, systemd-networkd, NetworkManager, ifupdown, ifcfg): it is as it was")
	}
	f.volumes()
	if f.spec.Agent != nil {
		f.callAgent(f.spec.Agent)
	} else {
		f.quietAgent()
	}
}

// volumes lets LVM find its physical volumes by what is on them: a list of devices names
// them by serial numbers that are others here.
func (f *fixer) volumes() {
	if !slices.ContainsFunc(f.devices.all, func(x device) bool { return x.kind == "lvm" }) {
		return
	}
	if f.exists("etc/lvm/devices/system.devices") {
		f.moveAway("etc/lvm/devices/system.devices")
	}
	conf, _ := f.read("etc/lvm/lvm.conf")
	for line := range strings.Lines(conf) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasSuffix(strings.TrimSpace(key), "filter") && strings.Contains(value, "/dev/") {
			f.note("etc/lvm/lvm.conf lets LVM look only at some devices, which may have other names here: %s", strings.TrimSpace(line))
		}
	}
}

// save writes the record down. It is done before each change.
func (f *fixer) save() {
	if f.err != nil {
		return
	}
	f.fail(recordFile, f.record.save(f.tree))
}

func (f *fixer) fail(name string, err error) {
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("change /%s: %w", name, err)
	}
}

func (f *fixer) begin(c change) bool {
	if f.err == nil {
		f.record.Changes = append(f.record.Changes, c)
		f.save()
	}
	return f.err == nil
}

// create makes a new file.
func (f *fixer) create(name, content string, mode fs.FileMode, what string) {
	if f.exists(name) {
		f.replace(name, content, what)
		return
	}
	if !f.begin(change{Kind: created, Path: name, Sum: sum([]byte(content)), What: what + " (/" + name + " is new)"}) {
		return
	}
	dir := path.Dir(name)
	f.fail(name, f.root.MkdirAll(dir, 0o755))
	f.fail(name, f.put(name, []byte(content), mode, dir))
}

// backup returns where what a file was before is kept: under a name that no program takes
// for one that it should read.
func (f *fixer) backup(name string) string {
	dir, base := path.Split(name)
	b := name + backupSuffix
	if strings.HasPrefix(base, "ifcfg-") {
		b = dir + backupPrefix + base
	}
	// An earlier failover may have left one, see Undo.
	for i, first := 2, b; f.exists(b); i++ {
		b = fmt.Sprint(first, ".", i)
	}
	return b
}

// replace gives a file another content and keeps the old one.
func (f *fixer) replace(name, content, what string) {
	was, err := f.load(name, textLimit)
	if err != nil {
		f.fail(name, err)
		return
	}
	if string(was) == content {
		return
	}
	b := f.backup(name)
	if !f.begin(change{Kind: replaced, Path: name, Backup: b, Was: sum(was), Sum: sum([]byte(content)), What: what + " (/" + name + ")"}) {
		return
	}
	mode := fs.FileMode(0o600)
	if i, err := f.root.Stat(name); err == nil {
		mode = i.Mode().Perm()
	}
	f.fail(name, f.put(b, was, mode, name))
	if f.err == nil {
		f.fail(name, f.put(name, []byte(content), mode, ""))
	}
}

// moveAway gives a file another name.
func (f *fixer) moveAway(name string) {
	b := f.backup(name)
	if f.begin(change{Kind: moved, Path: name, Backup: b, What: "/" + name + " is set aside"}) {
		f.fail(name, f.root.Rename(name, b))
	}
}

// grubConfigs lists the configurations of GRUB that there are.
func (f *fixer) grubConfigs() (all []string) {
	for _, p := range []string{"boot/grub/grub.cfg", "boot/grub2/grub.cfg"} {
		if f.exists(p) {
			all = append(all, p)
		}
	}
	for _, d := range f.folders("boot/efi/EFI") {
		if p := d + "/grub.cfg"; f.exists(p) {
			all = append(all, p)
		}
	}
	return all
}

// maxAppend is how much is appended to an initramfs at most, in bytes.
const maxAppend = 64 << 20

// marker is the name of a file in the archive that is appended.
const marker = "leeward-pre-failover"

// boot is an initramfs that lacks drivers.
type boot struct {
	path    string   // of the initramfs
	version string   // of the kernel
	modules string   // the kernel's folder in the machine
	inside  string   // the same in the initramfs
	files   []string // what to add, below those folders
	names   []string // modules to load, in order
	fs      *initramfs
	tail    []byte // what is to be appended
}

// padded puts zeros before an archive that is to follow size bytes. Kernels look for the next
// archive at a multiple of 4; behind LZ4 they want a length, which 4 zero bytes end.
func padded(archive []byte, size int64) []byte {
	gap := -size & 511
	if gap < 4 {
		gap += 512
	}
	return append(make([]byte, gap), archive...)
}

// append gives an initramfs the drivers that it lacks.
func (f *fixer) append(b boot) {
	if f.err != nil {
		return
	}
	file, err := f.root.OpenFile(b.path, os.O_RDWR, 0)
	if err != nil {
		f.fail(b.path, err)
		return
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		f.fail(b.path, err)
		return
	}
	what := fmt.Sprintf("%s for kernel %s (%d modules appended to /%s)", strings.Join(b.names, ", "), b.version, len(b.files), b.path)
	if f.begin(change{Kind: appended, Path: b.path, Size: size, Sum: sum(b.tail), What: what}) {
		_, err := file.WriteAt(b.tail, size)
		f.fail(b.path, errors.Join(err, file.Sync()))
	}
}

// tables are what modprobe and udev read, and what tells of devices' names.
var tableFiles = []string{
	"modules.dep", "modules.dep.bin", "modules.alias", "modules.alias.bin", "modules.softdep",
	"modules.builtin", "modules.builtin.bin", "modules.builtin.alias.bin", "modules.builtin.modinfo", "modules.order", "modules.devname", "modules.weakdep",
}

// archive makes what is appended: modules, the tables that name them, and for those who read
// it the list of what to load.
func (f *fixer) archive(b boot) ([]byte, error) {
	var out bytes.Buffer
	w := &cpioWriter{w: &out}
	made := map[string]bool{}
	// A folder that the initramfs has is not named: where it has a link, unpacking would
	// put a folder in its place.
	var dirs func(name string)
	dirs = func(name string) {
		if _, there := b.fs.members[name]; name == "." || there || made[name] {
			return
		}
		dirs(path.Dir(name))
		made[name] = true
		w.dir(name)
	}
	add := func(name string) error {
		content, err := f.load(b.modules+"/"+name, maxAppend)
		if err != nil {
			return err
		}
		if w.n+int64(len(content)) > maxAppend {
			return fmt.Errorf("its drivers have more than %d bytes", maxAppend)
		}
		to := b.inside + "/" + name
		dirs(path.Dir(to))
		w.file(to, modeFile|0o644, content)
		return nil
	}
	w.file(marker, modeFile|0o644, []byte("drivers were appended by Leeward for a machine that was failed over\n"))
	for _, m := range b.files {
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for _, t := range tableFiles {
		if !f.exists(b.modules + "/" + t) {
			continue
		}
		if err := add(t); err != nil {
			return nil, err
		}
	}
	if list, ok := b.fs.contents[loadList]; ok {
		if n := len(list); n > 0 && list[n-1] != '\n' {
			list = append(slices.Clip(list), '\n')
		}
		w.file(loadList, modeFile|0o644, append(slices.Clip(list), strings.Join(b.names, "\n")+"\n"...))
	}
	if err := w.close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
