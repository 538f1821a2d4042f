package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

// The trial is believed only if a guest executed it.
func TestTrial(t *testing.T) {
	rom := filepath.Join(t.TempDir(), "rom")
	if err := os.WriteFile(rom, trialFirmware(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := try(t.Context(), "qemu-system-x86_64", emulated, rom, trialTime); err != nil {
		t.Errorf("emulated: %v", err)
	}
	if err := try(t.Context(), "qemu-system-x86_64", accel{cpu: "abacus"}, rom, trialTime); err == nil || !strings.Contains(err.Error(), "abacus") {
		t.Errorf("a CPU that does not exist: %v", err)
	}
	if err := try(t.Context(), "qemu-system-x86_64", emulated, rom, time.Millisecond); !errors.Is(err, errSlow) {
		t.Errorf("no time: %v", err)
	}
	if err := try(t.Context(), "true", emulated, rom, trialTime); err == nil {
		t.Error("a QEMU that ran no guest is believed")
	}
}

// brokenKVM is the real QEMU, but fails as QEMU does where KVM is not whole: at once,
// or, if late, only once a guest has disks.
func brokenKVM(t *testing.T, late bool) string {
	t.Helper()
	when := `*" kvm "*`
	if late {
		when = `*" kvm "*disk0*|*disk0*" kvm "*`
	}
	path := filepath.Join(t.TempDir(), "qemu")
	script := "#!/bin/sh\ncase \" $* \" in " + when + ") echo 'failed to set MSR' >&2; kill -ABRT $$;; esac\nexec qemu-system-x86_64 \"$@\"\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// Where KVM fails, at the trial or later, a machine comes up all the same.
func TestKVMThatFails(t *testing.T) {
	for _, late := range []bool{false, true} {
		target := New(Config{Binary: brokenKVM(t, late), MaxMemory: 256 << 20, PowerOff: 100 * time.Millisecond})
		if late { // as if the trial had gone well, with KVM or without it on this host
			target.accel.known, target.accel.accel = true, accel{kvm: true, cpu: "max"}
		}
		m := machine(targettest.Mem("sda", make([]byte, 1<<20)))
		r, err := target.Start(t.Context(), m, t.TempDir())
		if err != nil {
			t.Fatalf("late %v: %v", late, err)
		}
		if err := r.Stop(t.Context()); err != nil {
			t.Errorf("late %v: %v", late, err)
		}
		a, why := target.accel.find(t.Context(), target.cfg.Binary)
		if _, err := os.Stat("/dev/kvm"); a != emulated || !late && err == nil && !strings.Contains(why, "failed to set MSR") {
			t.Errorf("late %v: goes on with %+v: %s", late, a, why)
		}
	}
}

func TestBestIsTheFirstThatWorks(t *testing.T) {
	a, err := best(t.Context(), "qemu-system-x86_64", []accel{{cpu: "abacus"}, {cpu: "qemu64"}})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		t.Skip("no /dev/kvm here: nothing to choose")
	}
	if err != nil || !slices.Equal(a.args(), []string{"-cpu", "qemu64"}) {
		t.Errorf("%+v, %v", a, err)
	}
}
