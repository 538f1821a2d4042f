package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// accel is how a guest's instructions are run.
type accel struct {
	kvm bool
	cpu string // QEMU's -cpu; "" leaves it at its default
}

// emulated is the accel that works everywhere.
var emulated = accel{}

func (a accel) args() []string {
	var args []string
	if a.kvm {
		args = append(args, "-accel", "kvm")
	}
	if a.cpu != "" {
		args = append(args, "-cpu", a.cpu)
	}
	return args
}

// withKVM lists what is tried with KVM, best first. "max" is the host's own CPU. Some
// hosts are virtual machines that show a register which they refuse to set, and
// QEMU aborts over it; such a CPU goes without that register.
var withKVM = []accel{{true, "max"}, {true, "max,-arch-capabilities"}, {true, "qemu64"}}

// The trial guest has a firmware of its own, which counts down and then writes a value
// to the port of the device isa-debug-exit, with which QEMU ends. Where KVM runs
// natively that takes no time; a KVM that itself interprets what a firmware does (seen
// inside virtual machines: some microseconds an instruction) takes seconds for it, and
// minutes for a boot that QEMU emulates in seconds.
const (
	trialRounds = 2_000_000
	trialPort   = 0xf4
	trialValue  = 0x21
	trialExit   = trialValue<<1 | 1 // how isa-debug-exit makes a status of a value
	trialTime   = 20 * time.Second  // for an emulated guest
	// KVM has the longer of leastTime and slower times what emulation took.
	leastTime = time.Second
	slower    = 3
)

// trialFirmware is as much of a firmware as the trial needs: 64 KiB that end where a
// CPU begins, 16 bytes before the end of its first 4 GiB.
func trialFirmware() []byte {
	const size = 64 << 10
	rom := bytes.Repeat([]byte{0xf4}, size)                                           // hlt
	n := copy(rom, binary.LittleEndian.AppendUint32([]byte{0x66, 0xb9}, trialRounds)) // mov ecx, trialRounds
	copy(rom[n:], []byte{
		0x66, 0x49, // dec ecx
		0x75, 0xfc, // jnz to the dec
		0xb0, trialValue, // mov al, trialValue
		0xe6, trialPort, // out trialPort, al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp to the hlt
	})
	copy(rom[size-16:], []byte{0xe9, 0x0d, 0x00}) // jmp to the first byte
	return rom
}

// errSlow is that of a trial that was not done in its time.
var errSlow = errors.New("the trial guest was not done in its time")

// try says why qemu does not run guests with a here, within limit. A /dev/kvm is no
// proof: what counts is a guest that ran.
func try(ctx context.Context, qemu string, a accel, rom string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "16", "-bios", rom,
		"-device", "isa-debug-exit,iobase=" + strconv.Itoa(trialPort) + ",iosize=1",
	}, a.args()...)
	cmd := exec.CommandContext(ctx, qemu, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w (%v)", errSlow, limit.Round(time.Millisecond))
	case errors.As(err, &ended) && ended.ExitCode() == trialExit:
		return nil
	}
	if err == nil {
		err = errors.New("the trial guest ended without a word")
	}
	if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); lines[0] != "" {
		return fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	return err
}

// accelerator finds out once how guests are run here.
type accelerator struct {
	mu     sync.Mutex
	known  bool
	accel  accel
	reason string // why not with KVM; "" if with it
}

// find returns the best accel that works for qemu, and if that is not KVM, why.
func (f *accelerator) find(ctx context.Context, qemu string) (accel, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known {
		return f.accel, f.reason
	}
	a, err := best(ctx, qemu, withKVM)
	f.accel, f.reason = a, ""
	if err != nil {
		f.reason = err.Error()
	}
	f.known = ctx.Err() == nil
	return f.accel, f.reason
}

// distrust has guests emulated from now on.
func (f *accelerator) distrust(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known, f.accel, f.reason = true, emulated, reason
}

// best returns the first of all that works, or emulated and why none does.
func best(ctx context.Context, qemu string, all []accel) (accel, error) {
	dev, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return emulated, err
	}
	dev.Close()
	dir, err := os.MkdirTemp("", "leeward-kvm-")
	if err != nil {
		return emulated, err
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "trial.bin")
	if err := os.WriteFile(rom, trialFirmware(), 0o600); err != nil {
		return emulated, err
	}
	start := time.Now()
	if err := try(ctx, qemu, emulated, rom, trialTime); err != nil {
		return emulated, err
	}
	limit := max(leastTime, slower*time.Since(start))
	var failed error
	for _, a := range all {
		err := try(ctx, qemu, a, rom, limit)
		if err == nil {
			return a, nil
		}
		failed = errors.Join(failed, fmt.Errorf("KVM with CPU %s: %w", a.cpu, err))
		if errors.Is(err, errSlow) {
			break // another CPU is not faster
		}
	}
	return emulated, failed
}
