package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/fixup"
)

// Fixup is when a machine's disks are fixed before it boots, see package fixup.
type Fixup string

// When disks are fixed.
const (
	FixupOff    Fixup = "off"    // never; the default here
	FixupAuto   Fixup = "auto"   // on hardware that the machine may lack drivers for: Virtio
	FixupAlways Fixup = "always" // also on Compatible hardware: the network, fstab, a serial console
)

// Helper says how the virtual machine is made that looks into a machine's disks.
type Helper struct {
	Program string   // linked statically, calls fixup.Main; default: this program
	Args    []string // for it
	Kernel  string   // folder with its kernel, see fixup.FindKernel
}

// Files of a helper in a run's directory. fixupFile holds what was done, and is there only
// while the disks hold it.
const (
	helperImage = "helper.img"
	helperLog   = "helper.log"
	fixupFile   = "fixup.json"
)

// helperTime is how long a helper may take. Emulated, on a machine with much else to do, and
// with a large initramfs to look through, it takes minutes.
const helperTime = 15 * time.Minute

// helperMemory is what a helper gets, in MiB.
const helperMemory = 512

// fixSpec says what is to be fixed in m; nil if nothing is.
func (t *Target) fixSpec(m *target.Machine) *fixup.Spec {
	s := &fixup.Spec{Do: fixup.Fix, Files: true}
	switch {
	case t.cfg.Fixup == FixupAlways && t.cfg.Hardware == Compatible:
		// A server that only ever saw its RAID controller may lack these.
		s.Drivers = []string{"ahci", "sd_mod"}
	case t.cfg.Fixup == FixupAlways, t.cfg.Fixup == FixupAuto && t.cfg.Hardware == Virtio:
		s.Drivers = []string{"virtio_pci", "virtio_blk"}
	default:
		return nil
	}
	s.Disks = names(m.Disks)
	return s
}

func names(disks []target.Disk) (all []string) {
	for _, d := range disks {
		all = append(all, d.Name())
	}
	return all
}

// helper is what it takes to run helpers.
type helper struct {
	cfg   Config
	accel accel
	dir   string
	log   *slog.Logger
}

// run starts a helper on the disks that are exported in dir, and waits for its report.
func (h *helper) run(ctx context.Context, spec fixup.Spec) (*fixup.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTime)
	defer cancel()
	kernel, err := fixup.FindKernel(h.cfg.Helper.Kernel)
	if err != nil {
		return nil, err
	}
	if kernel.Image, err = filepath.Abs(kernel.Image); err != nil {
		return nil, err
	}
	image := filepath.Join(h.dir, helperImage)
	defer os.Remove(image)
	if err := h.write(image, kernel, spec); err != nil {
		return nil, fmt.Errorf("make the helper that looks into the machine: %w", err)
	}
	begin := time.Now()
	p, err := launch(h.cfg.Binary, h.args(kernel, len(spec.Disks)), h.dir)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { p.kill() })
	report, err := fixup.ReadReport(p.serial)
	if err == nil {
		<-p.done // it turns itself off, or ctx ends
		if !p.cmd.ProcessState.Success() {
			err = p.failure()
		}
	}
	stop()
	p.kill()
	p.hangUp()
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("the helper was stopped after %v: %w", time.Since(begin).Round(time.Second), ctx.Err())
	case err != nil && !p.cmd.ProcessState.Success():
		err = p.failure()
	}
	if err != nil {
		return nil, fmt.Errorf("look into the machine with a helper: %w%s", err, lastLines(filepath.Join(h.dir, helperLog)))
	}
	h.log.Info("a helper looked into the machine", "do", spec.Do, "took", time.Since(begin).Round(time.Millisecond), "changes", len(report.Changes), "cannot", len(report.Cannot))
	if report.Error != "" {
		return report, fmt.Errorf("%s the machine's disks: %s", spec.Do, report.Error)
	}
	return report, nil
}

func (h *helper) write(image string, kernel fixup.Kernel, spec fixup.Spec) error {
	program := h.cfg.Helper.Program
	if program == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		program = self
	}
	f, err := os.OpenFile(image, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(fixup.WriteHelper(f, kernel, program, spec), f.Close())
}

// args returns QEMU's command line for a helper: no network, no screen, the machine's disks.
func (h *helper) args(k fixup.Kernel, disks int) []string {
	a := []string{
		"-name", "guest=leeward-helper", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-m", fmt.Sprint(helperMemory), "-smp", "1", "-machine", "q35",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=report,fd=%d", serialFD), "-serial", "chardev:report",
		"-chardev", "file,id=console,path=" + helperLog, "-serial", "chardev:console",
		"-kernel", k.Image, "-initrd", helperImage, "-append", fixup.Command(h.cfg.Helper.Args...),
	}
	a = append(a, h.accel.args()...)
	return append(a, (&plan{disks: disks, hardware: Virtio}).diskArgs()...)
}

// lastLines returns what a helper said last, which tells why it ended.
func lastLines(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b[max(0, len(b)-2000):])), "\n")
	return fmt.Sprintf(" (%s said: %.300s)", helperLog, strings.TrimSpace(lines[len(lines)-1]))
}

// fix makes the machine's disks fit the hardware, once in the life of a run's directory.
func (r *Run) fix(ctx context.Context, t *Target, m *target.Machine) error {
	spec := t.fixSpec(m)
	if spec == nil {
		return nil
	}
	if b, err := os.ReadFile(filepath.Join(r.dir, fixupFile)); err == nil {
		return json.Unmarshal(b, &r.fixed)
	}
	report, err := r.helper.run(ctx, *spec)
	if err != nil {
		return err
	}
	if len(report.Cannot) > 0 {
		return cannotFix(t.cfg.Hardware, report)
	}
	// What was done must not be forgotten before what tells of it.
	if err := r.flush(); err != nil {
		return err
	}
	b, err := json.Marshal(report)
	if err != nil {
		return err
	}
	r.fixed = *report
	return os.WriteFile(filepath.Join(r.dir, fixupFile), b, 0o600)
}

func cannotFix(hw Hardware, report *fixup.Report) error {
	try := "use hardware compatible, or fix-ups off if the machine has what it needs"
	if hw == Compatible {
		try = "use fix-ups off if the machine has what it needs"
	}
	return fmt.Errorf("the machine cannot be made fit for %s hardware: %s: %s", hw, strings.Join(report.Cannot, "; "), try)
}

// flush flushes all overlays.
func (r *Run) flush() error {
	for _, o := range r.overlays {
		if err := o.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// Unfix takes back what was done to the disks of a machine that is Off, so that they can go
// home. It returns what it did, and may be called twice.
func (r *Run) Unfix(ctx context.Context) (done []string, err error) {
	path := filepath.Join(r.dir, fixupFile)
	// First: who starts the machine again, whatever happens here, must look at its disks.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if len(r.fixed.Changes) > 0 {
		report, err := r.helper.run(ctx, fixup.Spec{Do: fixup.Undo, Disks: r.disks})
		if err != nil {
			return nil, err
		}
		if len(report.Cannot) > 0 {
			return nil, fmt.Errorf("take back what was done to the machine's disks: %s", strings.Join(report.Cannot, "; "))
		}
		if err := r.flush(); err != nil {
			return nil, err
		}
		done = report.Changes
	}
	r.fixed = fixup.Report{}
	return done, nil
}

// Rehearse does to m's disks what Start would, on overlays in dir, an empty directory, and
// boots nothing. It returns what was done and left alone, a line each, and an error if the
// machine could not be made fit.
func (t *Target) Rehearse(ctx context.Context, m *target.Machine, dir string) (said []string, err error) {
	spec := t.fixSpec(m)
	if spec == nil {
		return nil, nil
	}
	a, _ := t.accel.find(ctx, t.cfg.Binary)
	r := t.newRun(m, dir, a)
	defer func() { err = errors.Join(err, r.release()) }()
	if err := r.export(m.Disks, false); err != nil {
		return nil, err
	}
	report, err := r.helper.run(ctx, *spec)
	if err != nil {
		return nil, err
	}
	if len(report.Cannot) > 0 {
		return report.Notes, cannotFix(t.cfg.Hardware, report)
	}
	return append(report.Changes, report.Notes...), nil
}
