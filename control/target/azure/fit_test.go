package azure

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
	"github.com/leeward-dr/leeward/control/target/fixup"
	"github.com/leeward-dr/leeward/control/target/qemu"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// bootTime is for an emulated guest on a machine with much else to do.
const bootTime = 5 * time.Minute

// counting is a Fixer that counts.
type counting struct {
	Fixer
	fresh, again int
}

func (c *counting) Fit(ctx context.Context, m *target.Machine, spec fixup.Spec, dir string) (*fixup.Fitted, error) {
	f, err := c.Fixer.Fit(ctx, m, spec, dir)
	if err == nil && f.Fresh {
		c.fresh++
	} else if err == nil {
		c.again++
	}
	return f, err
}

// fit: a server that only ever saw SATA disks is sent with the drivers of Hyper-V, a serial
// console and the rest, also when control dies on the way; the point is not touched, and
// what was sent still boots.
func (r rig) fit(t *testing.T) {
	targettest.Need(t, "qemu-system-x86_64", "debugfs")
	program, args := targettest.HelperProgram(t)
	helper := qemu.New(qemu.Config{Helper: qemu.Helper{Program: program, Args: args, Kernel: targettest.HelperKernel(t)}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	image := targettest.Bootable(t, "tiny", "--hw", "sata")
	m := &target.Machine{Name: "web", CPUs: 2, Memory: 3 << 30, Firmware: "bios", Disks: []target.Disk{targettest.Image(t, "sda", image)}}
	before := targettest.ContentOf(t, m)
	for _, has := range []string{"hv_storvsc", "hv_netvsc"} {
		if strings.Contains(targettest.InTiny(t, image, "/boot/initrd"), has) {
			t.Fatalf("its initramfs has %s: there is nothing to show", has)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*bootTime)
	defer cancel()
	c, dir, fixer := r.cloud(t), t.TempDir(), &counting{Fixer: helper}
	cfg := config(c, place(), true)
	cfg.Fixer = fixer

	fresh := 1
	if os.Getenv("LEEWARD_FULL") == "1" { // one more helper
		said, err := New(cfg).Rehearse(ctx, m, t.TempDir())
		if err != nil || !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, "hv_storvsc") }) {
			t.Fatalf("rehearsed: %q, %v", said, err)
		}
		fresh++
	}
	c.At(20, armtest.Dead) // while the disk is sent
	run, err := New(cfg).Start(ctx, m, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run.Probe(ctx, booted); err == nil {
		t.Fatal("it was not killed")
	}
	run.(*Run).Leave()
	c.Revive()
	if run, err = New(cfg).Start(ctx, m, dir); err != nil {
		t.Fatal(err)
	}
	res, err := run.Probe(ctx, booted)
	if err != nil || !res.Alive {
		t.Fatalf("%v, %+v", err, res)
	}
	t.Logf("fixed: %q\n%s", res.Fixups, strings.Join(res.Evidence, "\n"))
	if fixer.fresh != fresh || fixer.again != 1 {
		t.Errorf("disks were fixed %d times and taken again %d times", fixer.fresh, fixer.again)
	}
	all := strings.Join(res.Fixups, "\n")
	for _, want := range []string{"hv_vmbus, hv_storvsc, hv_netvsc", "fstab: /: /dev/sda3", "serial console"} {
		if !strings.Contains(all, want) {
			t.Errorf("not told: %s", want)
		}
	}
	targettest.Untouched(t, m, before)

	vhd := filepath.Join(t.TempDir(), "sent.img")
	b := c.Download(t, c.Disks()[0])
	if err := os.WriteFile(vhd, b[:len(b)-512], 0o600); err != nil {
		t.Fatal(err)
	}
	initrd, was := targettest.InTiny(t, vhd, "/boot/initrd"), targettest.InTiny(t, image, "/boot/initrd")
	for _, driver := range []string{"hv_vmbus.ko", "hv_storvsc.ko", "hv_netvsc.ko"} {
		if !strings.HasPrefix(initrd, was) || !strings.Contains(initrd[len(was):], driver) {
			t.Errorf("the disk that was sent has no %s in its initramfs", driver)
		}
	}
	if grub := targettest.InTiny(t, vhd, "/boot/grub/grub.cfg"); !strings.Contains(grub, "console=ttyS0,115200") || !strings.Contains(grub, "root=UUID=") {
		t.Errorf("its boot loader: %s", grub)
	}
	if fstab := targettest.InTiny(t, vhd, "/etc/fstab"); !strings.HasPrefix(fstab, "UUID=") {
		t.Errorf("its fstab: %s", fstab)
	}
	if err := run.Stop(ctx); err != nil {
		t.Error(err)
	}
	clean(t, c, dir)

	sent := *m
	sent.Disks = []target.Disk{targettest.Image(t, "sda", vhd)}
	guest, err := qemu.New(qemu.Config{}).Start(ctx, &sent, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Stop(context.Background())
	if res, err = guest.Probe(ctx, target.Probe{Serial: "HEARTBEAT boot=1", Timeout: bootTime}); err != nil || !res.Alive {
		t.Errorf("what was sent does not boot: %v, %+v", err, res)
	}
}

// noFixer cannot.
type noFixer struct{ lost bool }

func (noFixer) CanFit(*target.Machine) error { return nil }

func (n noFixer) Fit(_ context.Context, m *target.Machine, _ fixup.Spec, _ string) (*fixup.Fitted, error) {
	if !n.lost {
		return nil, errors.New("the machine cannot be made fit: encrypted")
	}
	f := &fixup.Fitted{Fresh: true, Close: func() error { return nil }}
	for _, d := range m.Disks {
		f.Disks = append(f.Disks, d.(target.Restorer))
	}
	return f, nil
}

// unfit: a machine that cannot be made fit is not sent, and one whose changes are lost when
// a part of them may have been sent is not made fit anew.
func (r rig) unfit(t *testing.T) {
	c, ctx, dir := r.cloud(t), ctxOf(t), t.TempDir()
	cfg := config(c, place(), true)
	cfg.Fixer = noFixer{}
	if err := flow(t, c, New(cfg), machine(content(30, 1<<20))); err == nil || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("%v", err)
	}
	cfg.Fixer = noFixer{lost: true}
	c.At(10, armtest.Dead)
	run, err := New(cfg).Start(ctx, machine(content(30, 1<<20)), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run.Probe(ctx, booted); err == nil {
		t.Fatal("it was not killed")
	}
	run.(*Run).Leave()
	c.Revive()
	if run, err = New(cfg).Start(ctx, machine(content(30, 1<<20)), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := run.Probe(ctx, booted); err == nil || !strings.Contains(err.Error(), "lost what was changed") {
		t.Errorf("%v", err)
	}
	if err := run.Stop(ctx); err != nil {
		t.Error(err)
	}
	clean(t, c, dir)
}
