package fixup

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// KernelEnv names a folder with the kernel for helpers: vmlinuz, and lib/modules/VERSION.
const KernelEnv = "LEEWARD_HELPER_KERNEL"

// Kernel is one that a helper can run: an image and the folder of its modules.
type Kernel struct{ Image, Modules string }

// What a helper's kernel must have to see disks, and what it should have to see into them.
// Some file systems ask for their checksums by name.
var (
	mustHave   = []string{"virtio_pci", "virtio_blk", "ext4"}
	shouldHave = []string{
		"crc32c_generic", "crc32c_intel", "libcrc32c", "xfs", "btrfs", "xxhash_generic", "blake2b_generic", "sha256_generic",
		"dm_mod", "md_mod", "raid0", "raid1", "raid10", "raid456", "linear", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8",
	}
)

// FindKernel looks for a kernel on this host: in dir, or if that is empty where KernelEnv
// says, or else among those that are installed.
func FindKernel(dir string) (Kernel, error) {
	if dir = cmp.Or(dir, os.Getenv(KernelEnv)); dir != "" {
		all, _ := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
		for _, m := range all {
			k := Kernel{filepath.Join(dir, "vmlinuz"), m}
			if err := k.check(); err != nil {
				return k, fmt.Errorf("the kernel for helpers in %s (see %s): %w", dir, KernelEnv, err)
			}
			return k, nil
		}
		return Kernel{}, fmt.Errorf("no kernel for helpers is in %s: lib/modules/VERSION is not there (see %s)", dir, KernelEnv)
	}
	return findKernel("/")
}

// findKernel looks below root. One for virtual machines only is smaller, so it is first.
func findKernel(root string) (Kernel, error) {
	dirs, _ := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	slices.SortFunc(dirs, func(a, b string) int {
		if ca, cb := strings.Contains(a, "cloud"), strings.Contains(b, "cloud"); ca != cb {
			if ca {
				return -1
			}
			return 1
		}
		return strings.Compare(b, a)
	})
	var why []string
	for _, m := range dirs {
		for _, image := range []string{filepath.Join(root, "boot/vmlinuz-"+filepath.Base(m)), filepath.Join(m, "vmlinuz")} {
			if _, err := os.Stat(image); err != nil {
				continue
			}
			k := Kernel{image, m}
			err := k.check()
			if err == nil {
				return k, nil
			}
			why = append(why, err.Error())
		}
	}
	err := fmt.Errorf("no Linux kernel to look into the machine with was found in /boot and /lib/modules: apt-get install linux-image-cloud-amd64, or name a folder with vmlinuz and lib/modules in %s", KernelEnv)
	if len(why) > 0 {
		err = fmt.Errorf("%w (%s)", err, strings.Join(why, "; "))
	}
	return Kernel{}, err
}

// check says why a kernel will not do.
func (k Kernel) check() error {
	f, err := os.Open(k.Image)
	if err != nil {
		return err // on some distributions only root may read it
	}
	f.Close()
	m, err := k.tables()
	if err != nil {
		return err
	}
	if _, missing := m.closure(mustHave...); len(missing) > 0 {
		return fmt.Errorf("%s has no %s", k.Modules, strings.Join(missing, ", "))
	}
	return nil
}

func (k Kernel) tables() (*modules, error) {
	dep, err := os.ReadFile(filepath.Join(k.Modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.Modules, "modules.builtin"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return parseModules(dep, builtin)
}

// Command is the kernel's command line for a helper that runs program with args. Its own
// messages go to the second serial port.
func Command(args ...string) string {
	return "console=ttyS1,115200 quiet panic=-1 nokaslr mitigations=off no_timer_check random.trust_cpu=on rdinit=" +
		programPath + " -- " + strings.Join(args, " ")
}

// WriteHelper writes the initramfs of a helper: the modules that it needs of k, the spec,
// and program, a file with a program that calls Main, linked statically.
func WriteHelper(w io.Writer, k Kernel, program string, spec Spec) error {
	if err := static(program); err != nil {
		return err
	}
	tables, err := k.tables()
	if err != nil {
		return err
	}
	files, missing := tables.closure(append(slices.Clone(mustHave), shouldHave...)...)
	for _, m := range missing {
		if slices.Contains(mustHave, m) {
			return fmt.Errorf("%s has no %s", k.Modules, m)
		}
	}
	out := bufio.NewWriterSize(w, 1<<20)
	c := &cpioWriter{w: out}
	for _, d := range []string{"dev", "proc", "sys", "lib"} {
		c.dir(d)
	}
	// The kernel opens it for the first process before anything is mounted.
	c.node("dev/console", modeChar|0o600, 5, 1)
	var load strings.Builder
	for _, f := range files {
		content, err := readModule(filepath.Join(k.Modules, f))
		if err != nil {
			return err
		}
		name := "lib/" + moduleName(f) + ".ko"
		c.file(name, modeFile|0o644, content)
		load.WriteString("/" + name + "\n")
	}
	c.file(path.Base(loadPath), modeFile|0o644, []byte(load.String()))
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	c.file(path.Base(specPath), modeFile|0o644, b)
	self, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	c.file(path.Base(programPath), modeFile|0o755, self)
	return errors.Join(c.close(), out.Flush())
}

// static says what keeps a program from running where there is nothing else.
func static(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("%s cannot be the helper's program: %w", program, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s cannot be the helper's program, it is linked dynamically: build it with CGO_ENABLED=0", program)
		}
	}
	return nil
}

// maxModule is how large a module can be, unpacked.
const maxModule = 64 << 20

// readModule reads a module, which distributions pack in different ways.
func readModule(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(name) {
	case ".xz":
		r, err = xz.NewReader(bufio.NewReader(f))
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1)); err == nil {
			defer z.Close()
			r = z
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(b) > maxModule {
		err = fmt.Errorf("it has more than %d bytes", maxModule)
	}
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	return b, nil
}

// maxReport is how long a report can be, in bytes.
const maxReport = 1 << 20

// ReadReport finds the report in what a helper wrote. It is what a virtual machine says that
// has looked into a machine nobody vouches for: it is only shown, and its lines are bounded.
func ReadReport(r io.Reader) (*Report, error) {
	s := bufio.NewScanner(io.LimitReader(r, 4*maxReport))
	s.Buffer(make([]byte, 0, 64<<10), maxReport)
	for s.Scan() {
		b, ok := bytes.CutPrefix(bytes.TrimSpace(s.Bytes()), []byte(Prefix))
		if !ok {
			continue
		}
		report := new(Report)
		if err := json.Unmarshal(b, report); err != nil {
			return nil, fmt.Errorf("the helper's report cannot be understood: %w", err)
		}
		for _, all := range [][]string{report.Changes, report.Notes, report.Cannot} {
			for i := range all {
				all[i] = plain(all[i])
			}
		}
		report.Error = plain(report.Error)
		return report, nil
	}
	return nil, errors.Join(errors.New("the helper ended without a report"), s.Err())
}

// maxLine is how long a line of a report can be, in bytes.
const maxLine = 1000

// plain leaves of a line what can be shown on a terminal.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\uFFFD' {
			return -1
		}
		return r
	}, s)
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}
