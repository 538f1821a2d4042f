package fixup

import (
	"fmt"
	"slices"
	"strings"
)

// bootEntry is a kernel that a boot loader's configuration names.
type bootEntry struct {
	kernel  string   // path as the boot loader has it
	initrds []string // same
	args    []string
}

// console is what makes a kernel, and after it the login prompt, use the first serial port
// beside the screen.
var console = []string{"console=tty0", "console=ttyS0,115200"}

// fixArgs changes a kernel's command line: a serial console, and the root by its UUID. said
// tells what was changed.
func fixArgs(args []string, d *devices) (fixed, said, cannot []string) {
	fixed = slices.Clone(args)
	serial := false
	for i, a := range fixed {
		serial = serial || strings.HasPrefix(a, "console=ttyS")
		root, ok := strings.CutPrefix(a, "root=")
		if !ok || !unstable(root) {
			continue
		}
		if x, there := d.find(root); there && x.uuid != "" {
			fixed[i] = "root=UUID=" + x.uuid
			said = append(said, fmt.Sprintf("the kernel's root %s is called UUID=%s", root, x.uuid))
		} else {
			cannot = append(cannot, fmt.Sprintf("the kernel's root is %s, which is on none of the protected disks under that name", root))
		}
	}
	if !serial {
		fixed = append(fixed, console...)
		said = append(said, "a serial console")
	}
	return fixed, said, cannot
}

// grubWords are the commands of a grub.cfg.
func grubWords(line string) (indent, command string, rest []string) {
	trimmed := strings.TrimLeft(line, " \t")
	f := strings.Fields(trimmed)
	if len(f) == 0 {
		return "", "", nil
	}
	return line[:len(line)-len(trimmed)], f[0], f[1:]
}

func isLinux(command string) bool {
	return slices.Contains([]string{"linux", "linux16", "linuxefi"}, command)
}

func isInitrd(command string) bool {
	return slices.Contains([]string{"initrd", "initrd16", "initrdefi"}, command)
}

// fixGrub changes every kernel's command line in a grub.cfg with edit, and lists the kernels.
func fixGrub(text string, edit func(args []string) []string) (fixed string, all []bootEntry) {
	var out strings.Builder
	for line := range strings.Lines(text) {
		indent, command, rest := grubWords(line)
		switch {
		case isLinux(command) && len(rest) > 0:
			args := edit(rest[1:])
			all = append(all, bootEntry{kernel: grubPath(rest[0]), args: rest[1:]})
			if !slices.Equal(args, rest[1:]) {
				line = indent + strings.Join(append([]string{command, rest[0]}, args...), " ") + "\n"
			}
		case isInitrd(command) && len(all) > 0:
			for _, p := range rest {
				all[len(all)-1].initrds = append(all[len(all)-1].initrds, grubPath(p))
			}
		}
		out.WriteString(line)
	}
	return out.String(), all
}

// grubPath takes from a path what says on which device it is: ($root)/vmlinuz.
func grubPath(p string) string {
	if strings.HasPrefix(p, "(") {
		if _, rest, ok := strings.Cut(p, ")"); ok {
			return rest
		}
	}
	// btrfs: the path begins with the subvolume, which is where we are.
	return strings.TrimPrefix(p, "$relative_path")
}

// fixBLS does the same for one entry of the boot loader specification, loader/entries/*.conf.
func fixBLS(text string, edit func(args []string) []string) (fixed string, e bootEntry) {
	var out strings.Builder
	for line := range strings.Lines(text) {
		_, key, rest := grubWords(line)
		switch key {
		case "linux":
			if len(rest) > 0 {
				e.kernel = rest[0]
			}
		case "initrd":
			for _, p := range rest {
				if !strings.HasPrefix(p, "$") { // $tuned_initrd
					e.initrds = append(e.initrds, p)
				}
			}
		case "options":
			e.args = rest
			if args := edit(rest); !slices.Equal(args, rest) {
				line = "options " + strings.Join(args, " ") + "\n"
			}
		}
		out.WriteString(line)
	}
	return out.String(), e
}

// fixGrubDefault adds the console to what /etc/default/grub makes the next grub.cfg of.
func fixGrubDefault(text string) string {
	const key = "GRUB_CMDLINE_LINUX="
	if strings.Contains(text, "console=ttyS") || strings.Contains(text, "\\\n") {
		return text
	}
	var out strings.Builder
	found := false
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, key); ok && !found {
			value = strings.TrimSpace(value)
			if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
				found = true
				words := append(strings.Fields(value[1:n-1]), console...)
				line = key + value[:1] + strings.Join(words, " ") + value[:1] + "\n"
			}
		}
		out.WriteString(line)
	}
	return out.String()
}
