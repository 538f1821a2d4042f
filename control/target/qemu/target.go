package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/fixup"
)

// Hardware is the kind of disk controller and network card a guest gets.
type Hardware string

// The kinds of hardware.
const (
	Compatible Hardware = "compatible" // AHCI and e1000e: no change to the guest
	Virtio     Hardware = "virtio"     // faster; the guest needs the drivers
)

// Config says how machines are brought up. Its zero value is good.
type Config struct {
	Binary   string   // of QEMU; default qemu-system-x86_64
	Hardware Hardware // default Compatible
	// Open lets the guest reach the host's network and the world. Never do that with
	// a copy of a machine that still runs.
	Open bool
	// Bridge is a bridge of this host that the guest is attached to, among the machines of
	// the network that it is part of; then Open says nothing. Never do that with a copy of a
	// machine that still runs.
	Bridge string
	// Address is where the guest's ports are to be probed when it is on a bridge: nobody here
	// can know it.
	Address string
	// MaxCPUs limits a guest's CPUs: default as many as the host has, and one without
	// KVM, where more do not help.
	MaxCPUs int
	// MaxMemory limits a guest's memory in bytes: default three quarters of what the
	// host has available.
	MaxMemory int64
	// PowerOff is how long Stop waits for the guest to power off; default 30 s.
	PowerOff time.Duration
	// Hydrate copies the disks here while the guest runs, see package hydrate.
	Hydrate bool
	Fixup   Fixup        // default FixupOff
	Helper  Helper       // for what Fixup says
	Log     *slog.Logger // may be nil
}

// Target is target.Target on this host.
type Target struct {
	cfg   Config
	accel accelerator
}

// New returns a target. What is missing on the host is for Validate to say.
func New(cfg Config) *Target {
	if cfg.Binary == "" {
		cfg.Binary = "qemu-system-x86_64"
	}
	if cfg.Hardware == "" {
		cfg.Hardware = Compatible
	}
	if cfg.Fixup == "" {
		cfg.Fixup = FixupOff
	}
	if cfg.PowerOff == 0 {
		cfg.PowerOff = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Target{cfg: cfg}
}

// Name returns "qemu".
func (t *Target) Name() string { return "qemu" }

// maxDisks is how many disks there is room for on the guest's buses.
const maxDisks = 24

// Validate says why m cannot come up here.
func (t *Target) Validate(_ context.Context, m *target.Machine) error {
	if err := m.Check(); err != nil {
		return err
	}
	if len(m.Disks) > maxDisks {
		return fmt.Errorf("machine %s has %d disks, QEMU has room for %d", m.Name, len(m.Disks), maxDisks)
	}
	if t.cfg.Hardware != Compatible && t.cfg.Hardware != Virtio {
		return fmt.Errorf("hardware %q is neither %s nor %s", t.cfg.Hardware, Compatible, Virtio)
	}
	if t.cfg.Fixup != FixupOff && t.cfg.Fixup != FixupAuto && t.cfg.Fixup != FixupAlways {
		return fmt.Errorf("fix-ups %q are none of %s, %s and %s", t.cfg.Fixup, FixupAuto, FixupOff, FixupAlways)
	}
	if t.fixSpec(m) != nil {
		if _, err := fixup.FindKernel(t.cfg.Helper.Kernel); err != nil {
			return fmt.Errorf("%w; or use hardware compatible, or fix-ups off if the machine has the drivers", err)
		}
	}
	if _, err := exec.LookPath(t.cfg.Binary); err != nil {
		return fmt.Errorf("%s not found: apt-get install qemu-system-x86", t.cfg.Binary)
	}
	if m.Firmware == "uefi" {
		if _, err := findFirmware(firmwares); err != nil {
			return err
		}
	}
	if t.cfg.Bridge != "" {
		if err := checkBridge(t.cfg.Bridge); err != nil {
			return err
		}
	}
	if _, err := t.memory(m.Memory); err != nil {
		return fmt.Errorf("machine %s: %w", m.Name, err)
	}
	return nil
}

// firmware is a build of OVMF: code, and the variables it starts with.
type firmware struct{ code, vars string }

// firmwares lists where distributions put OVMF, best first.
var firmwares = []firmware{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	{"/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"},
}

func findFirmware(all []firmware) (firmware, error) {
	for _, f := range all {
		_, err1 := os.Stat(f.code)
		_, err2 := os.Stat(f.vars)
		if err1 == nil && err2 == nil {
			return f, nil
		}
	}
	return firmware{}, errors.New("no UEFI firmware found: apt-get install ovmf")
}

// Memory of a guest, in bytes.
const (
	leastMemory   = 128 << 20
	defaultMemory = 1 << 30 // for a machine that does not say
)

// memory says how much of the memory a machine wants it gets.
func (t *Target) memory(want int64) (int64, error) {
	limit := t.cfg.MaxMemory
	if limit == 0 {
		limit = available() / 4 * 3
	}
	if want == 0 {
		want = defaultMemory
	}
	if limit < leastMemory {
		return 0, fmt.Errorf("%d MiB of memory are to be had for a guest, at least %d are needed", limit>>20, leastMemory>>20)
	}
	return max(leastMemory, min(want, limit)), nil
}

// available returns how much memory the host can give, in bytes.
func available() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return defaultMemory
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return defaultMemory
}

// cpus says how many of the CPUs a machine wants it gets.
func (t *Target) cpus(want int, kvm bool) int {
	limit := t.cfg.MaxCPUs
	switch {
	case limit > 0:
	case kvm:
		limit = runtime.NumCPU()
	default:
		limit = 1
	}
	return max(1, min(want, limit))
}

// plan decides what the machine looks like, and puts UEFI's variables into dir.
func (t *Target) plan(m *target.Machine, a accel, dir string) (*plan, error) {
	p := &plan{name: m.Name, accel: a, disks: len(m.Disks), hardware: t.cfg.Hardware, open: t.cfg.Open, bridge: t.cfg.Bridge}
	memory, err := t.memory(m.Memory)
	if err != nil {
		return nil, err
	}
	p.memoryMiB, p.cpus = (memory+1<<20-1)>>20, t.cpus(m.CPUs, a.kvm)
	if m.Firmware != "uefi" {
		return p, nil
	}
	fw, err := findFirmware(firmwares)
	if err != nil {
		return nil, err
	}
	p.uefiCode = fw.code
	// What the guest has set in an earlier run stays.
	if _, err := os.Stat(filepath.Join(dir, varsFile)); err == nil {
		return p, nil
	}
	vars, err := os.ReadFile(fw.vars)
	if err != nil {
		return nil, fmt.Errorf("read UEFI variables: %w", err)
	}
	return p, os.WriteFile(filepath.Join(dir, varsFile), vars, 0o600)
}
