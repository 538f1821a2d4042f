package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/fixup"
	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

func helperProgram(t testing.TB) Helper {
	program, args := targettest.HelperProgram(t)
	return Helper{Program: program, Args: args, Kernel: targettest.HelperKernel(t)}
}

// fixing is a Config whose helpers can run here.
func fixing(t testing.TB, fix Fixup) Config {
	need(t)
	return Config{Hardware: Virtio, Fixup: fix, Helper: helperProgram(t), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// A server that only ever saw SATA disks does not boot on virtio hardware. Fixed it does,
// and when it goes home its disk is as it would be without.
func TestFixup(t *testing.T) {
	t.Parallel()
	cfg := fixing(t, FixupAuto)
	targettest.Need(t, "debugfs")
	image := targettest.Bootable(t, "tiny", "--hw", "sata")
	m := machine(targettest.Image(t, "sda", image))
	before := targettest.ContentOf(t, m)

	fails := make(chan string, 1)
	go func() {
		fails <- func() string { // beside the other: it only waits
			r, err := New(Config{Hardware: Virtio}).Start(t.Context(), m, t.TempDir())
			if err != nil {
				return err.Error()
			}
			defer r.Stop(context.Background())
			res, err := r.Probe(t.Context(), target.Probe{Serial: "HEARTBEAT|BOOTFAIL", Timeout: 2 * tinyTime})
			if err != nil {
				return err.Error()
			}
			if said := strings.Join(res.Evidence, "; "); !strings.Contains(said, "BOOTFAIL: no root device") {
				return "it booted, or failed otherwise: " + said
			}
			return ""
		}()
	}()

	r, dir := start(t, cfg, m)
	res := probe(t, r, target.Probe{Serial: "HEARTBEAT boot=1 .*root=/dev/vda3", Timeout: tinyTime})
	if !res.Alive {
		t.Fatalf("it does not live: %q", res.Evidence)
	}
	t.Logf("fixed: %q", res.Fixups)
	all := strings.Join(res.Fixups, "\n")
	for _, want := range []string{"virtio_pci, virtio_blk for kernel", "fstab: /: /dev/sda3", "serial console"} {
		if !strings.Contains(all, want) {
			t.Errorf("not told: %s", want)
		}
	}
	if err := r.Off(t.Context()); err != nil {
		t.Fatal(err)
	}
	done, err := r.Unfix(t.Context())
	if err != nil || len(done) != len(res.Fixups) {
		t.Fatalf("taken back: %q, %v", done, err)
	}
	if done, err := r.Unfix(t.Context()); err != nil || len(done) != 0 {
		t.Errorf("taken back twice: %q, %v", done, err)
	}
	if _, err := os.Stat(filepath.Join(dir, fixupFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", fixupFile, err)
	}
	for _, p := range []string{"/etc/fstab", "/boot/grub/grub.cfg", "/boot/initrd"} {
		if was, is := targettest.InTiny(t, image, p), inOverlay(t, r.Overlay(0), p); was != is || was == "" {
			t.Errorf("%s had %d bytes and goes home with %d", p, len(was), len(is))
		}
	}
	if got := inOverlay(t, r.Overlay(0), "/var/lib/leeward/pre-failover.json"); got != "" {
		t.Errorf("the record goes home: %s", got)
	}
	targettest.Untouched(t, m, before)
	if why := <-fails; why != "" {
		t.Errorf("without fix-up: %s", why)
	}
}

func inOverlay(t testing.TB, o *overlay.Overlay, path string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, io.NewSectionReader(o, 0, o.Size())); err != nil {
		t.Fatal(err)
	}
	return targettest.InTiny(t, f.Name(), path)
}

// What cannot be fixed is said when it is rehearsed, and a machine without fix-ups needs no
// helper.
func TestCannotFix(t *testing.T) {
	t.Parallel()
	need(t)
	luks := make([]byte, 1<<20)
	copy(luks, "LUKS\xba\xbe\x00\x02")
	m := machine(targettest.Mem("sda", luks))
	if os.Getenv("LEEWARD_FULL") == "1" { // one more boot, with the program that is installed
		if _, err := New(fixing(t, FixupAuto)).Rehearse(t.Context(), m, t.TempDir()); err == nil || !strings.Contains(err.Error(), "encrypted (LUKS)") {
			t.Errorf("rehearsed: %v", err)
		}
	}
	cfg := Config{Hardware: Virtio, Fixup: FixupAuto, Helper: Helper{Kernel: t.TempDir()}}
	if err := New(cfg).Validate(t.Context(), m); err == nil || !strings.Contains(err.Error(), fixup.KernelEnv) {
		t.Errorf("without a kernel: %v", err)
	}
	cfg.Hardware = Compatible
	if said, err := New(cfg).Rehearse(t.Context(), m, t.TempDir()); err != nil || len(said) != 0 {
		t.Errorf("nothing is to be fixed: %q, %v", said, err)
	}
	cfg.Fixup = "sometimes"
	if err := New(cfg).Validate(t.Context(), m); err == nil {
		t.Error("fix-ups \"sometimes\"")
	}
}

// A root in a logical volume, of which the group lies on a RAID, is found and fixed.
func TestFixupJoined(t *testing.T) {
	t.Parallel()
	cfg := fixing(t, FixupAuto)
	b, err := os.ReadFile(targettest.Bootable(t, "tiny", "--hw", "sata"))
	if err != nil {
		t.Fatal(err)
	}
	// The root's partition; its fstab and its boot loader call it by a name of the same length.
	root := bytes.ReplaceAll(b[12288*512:len(b)-2048*512], []byte("/dev/sda3"), []byte("/dev/dm-0"))
	versions := []string{"1.2"}
	if os.Getenv("LEEWARD_FULL") == "1" { // each costs a boot of the helper
		versions = append(versions, "1.1", "1.0", "0.90")
	}
	var two [2][]byte
	for _, version := range versions {
		two = targettest.Mirror(version, "pair", targettest.Volume(root))
		m := machine(targettest.Mem("sda", two[0]), targettest.Mem("sdb", two[1]))
		said, err := New(cfg).Rehearse(t.Context(), m, t.TempDir())
		if err != nil {
			t.Fatalf("superblocks of version %s: %v", version, err)
		}
		all := strings.Join(said, "\n")
		for _, want := range []string{"virtio_pci, virtio_blk for kernel", "logical volume machine/pool is of type thin"} {
			if !strings.Contains(all, want) {
				t.Errorf("superblocks of version %s, not said: %s in %q", version, want, said)
			}
		}
	}
	if os.Getenv("LEEWARD_FULL") != "1" {
		return // it costs a boot of the helper
	}
	// Half of the RAID is not enough, and that is said.
	_, err = New(cfg).Rehearse(t.Context(), machine(targettest.Mem("sda", two[0])), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "has 1 of its 2 devices here") {
		t.Errorf("half a RAID: %v", err)
	}
}

// The agent in a copy finds each disk by what is on it: the helper sees in the disks what
// udev would.
func TestAgentFindsDisks(t *testing.T) {
	t.Parallel()
	if os.Getenv("LEEWARD_FULL") != "1" {
		t.Skip("SKIPPED: it costs a boot of the helper: LEEWARD_FULL=1 names disks without file systems in one")
	}
	targettest.Need(t, "debugfs", "sfdisk")
	b, err := os.ReadFile(targettest.Bootable(t, "tiny", "--hw", "sata"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	image, env, table := filepath.Join(dir, "sda"), filepath.Join(dir, "env"), filepath.Join(dir, "sdc")
	for name, text := range map[string][]byte{image: b, env: []byte("LEEWARD_AGENT_ARGS=\"--disk /dev/sda --io-class low\"\n"), table: make([]byte, 8<<20)} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		in   string
		argv []string
	}{
		{"mkdir /etc/leeward\nmkdir /etc/systemd\nmkdir /etc/systemd/system\nwrite " + env + " /etc/leeward/agent.env\nwrite " + env + " /etc/systemd/system/leeward-agent.service\n",
			[]string{"debugfs", "-w", "-f", "-", image + "?offset=6291456"}},
		{"label: gpt\n,4MiB,R,\n,,R,\n", []string{"sfdisk", "-q", table}},
		{"", []string{"sfdisk", "-q", "--part-uuid", table, "1", "0A11D15C-0000-4000-8000-000000000001"}},
	} {
		cmd := exec.CommandContext(t.Context(), c.argv[0], c.argv[1:]...)
		cmd.Stdin = strings.NewReader(c.in)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", c.argv, err, out)
		}
	}
	m := machine(targettest.Image(t, "sda", image), targettest.Mem("sdb", targettest.Volume(make([]byte, 17<<20))), targettest.Image(t, "sdc", table))
	spec := fixup.Spec{Do: fixup.Fix, Drivers: []string{"virtio_pci", "virtio_blk"}, Files: true, Agent: &fixup.Agent{Machine: "web", Instance: "copy-1-web", Server: "tls://bus:4222"}}
	f, err := New(fixing(t, FixupAuto)).Fit(t.Context(), m, spec, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	now := filepath.Join(dir, "now")
	out, err := os.Create(now)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, io.NewSectionReader(f.Disks[0], 0, f.Disks[0].Size())); err != nil {
		t.Fatal(err)
	}
	told := targettest.InTiny(t, now, "/etc/leeward/failover.env")
	t.Log(told, f.Notes)
	for _, want := range []string{"on:/dev/disk/by-uuid/", "on:/dev/disk/by-id/lvm-pv-uuid-" + targettest.GroupID + "=sdb", "on:/dev/disk/by-partuuid/0a11d15c-0000-4000-8000-000000000001=sdc"} {
		if !strings.Contains(told, want) {
			t.Errorf("it is not told %q", want)
		}
	}
}
