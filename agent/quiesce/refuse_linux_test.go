package quiesce_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/agent/quiesce"
)

func TestRefusesWhatTheAgentWritesTo(t *testing.T) {
	dev, dir := mounted(t, "btrfs", 128*mib)
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	f := newFreezer(t, quiesce.Options{Avoid: []string{"/proc", state}})
	_, err := f.Freeze(ctx, mountsOf(t, dev))
	var refused *quiesce.Refused
	if !errors.Is(err, quiesce.ErrRefused) || !errors.As(err, &refused) || refused.Mount.Path != dir || !strings.Contains(err.Error(), state) {
		t.Fatalf("got %v", err)
	}
	within(t, patience, "a write", writing(t, dir))
}

func TestRefusesSwapFiles(t *testing.T) {
	disktest.NeedRoot(t, "mkswap", "swapon")
	dev, dir := mounted(t, "ext4", 64*mib)
	file := filepath.Join(dir, "swap file")
	if err := os.WriteFile(file, make([]byte, 8*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	disktest.Run(t, "mkswap", file)
	disktest.Run(t, "swapon", file)
	t.Cleanup(func() { disktest.Run(t, "swapoff", file) })
	mounts := mountsOf(t, dev)
	_, err := newFreezer(t, quiesce.Options{}).Freeze(ctx, mounts)
	if !errors.Is(err, quiesce.ErrRefused) || !strings.Contains(err.Error(), file) {
		t.Fatalf("got %v", err)
	}
	fr, err := newFreezer(t, quiesce.Options{AllowSwapFiles: true}).Freeze(ctx, mounts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fr.Thaw(); err != nil {
		t.Fatal(err)
	}
}

func TestNothingToFreeze(t *testing.T) {
	fr, err := newFreezer(t, quiesce.Options{}).Freeze(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fr.Thaw(); err != nil {
		t.Fatal(err)
	}
}

func TestFreezeErrors(t *testing.T) {
	dev, dir := mounted(t, "ext4", 32*mib)
	f := newFreezer(t, quiesce.Options{Bound: 20 * time.Second})
	mounts := mountsOf(t, dev)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := f.Freeze(cancelled, mounts); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	moved := []disk.Mount{mounts[0]}
	moved[0].ID = 999999
	if _, err := f.Freeze(ctx, moved); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("another mount at the place: %v", err)
	}
	// While one set is frozen, a second freeze waits.
	fr, err := f.Freeze(ctx, mounts)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := f.Freeze(short, mounts); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second freeze: %v", err)
	}
	if _, err := fr.Thaw(); err != nil {
		t.Fatal(err)
	}
	within(t, patience, "a write", writing(t, dir))
	if _, err := quiesce.New(quiesce.Options{GuardCommand: []string{"/nonexistent"}}); !errors.Is(err, quiesce.ErrNoGuard) {
		t.Errorf("no guard program: %v", err)
	}
	if _, err := quiesce.New(quiesce.Options{GuardCommand: []string{"/bin/true"}}); !errors.Is(err, quiesce.ErrNoGuard) {
		t.Errorf("a guard that is none: %v", err)
	}
}

func TestTooSlow(t *testing.T) {
	dev, dir := mounted(t, "ext4", 32*mib)
	f := newFreezer(t, quiesce.Options{Bound: time.Nanosecond})
	for range 20 {
		if _, err := f.Freeze(ctx, mountsOf(t, dev)); !errors.Is(err, quiesce.ErrTooSlow) {
			t.Fatalf("got %v", err)
		}
		within(t, patience, "a write", writing(t, dir))
	}
}

// A freeze that hangs in the kernel (what lies below is frozen by somebody else)
// cannot be called off: the guard and the agent thaw it as soon as it is through.
func TestFreezeThatHangs(t *testing.T) {
	disktest.NeedRoot(t, "fsfreeze", "mkfs.ext4")
	_, lower := mounted(t, "ext4", 128*mib)
	inner := filepath.Join(lower, "inner.img")
	if err := errors.Join(os.WriteFile(inner, nil, 0o600), os.Truncate(inner, 64*mib)); err != nil {
		t.Fatal(err)
	}
	innerDev := disktest.Attach(t, inner)
	disktest.Mkfs(t, innerDev, "ext4")
	upper := disktest.Mount(t, innerDev)
	within(t, patience, "a write", writing(t, upper))
	const bound = 200 * time.Millisecond
	f := newFreezer(t, quiesce.Options{Bound: bound})
	mounts := mountsOf(t, innerDev)
	if err := f.Sync(ctx, mounts); err != nil {
		t.Fatal(err)
	}
	disktest.Run(t, "fsfreeze", "-f", lower)
	// Whatever happens below, nothing stays frozen for longer than this.
	began := time.Now()
	thaw := time.AfterFunc(10*bound, func() { _ = exec.Command("fsfreeze", "-u", lower).Run() })
	defer thaw.Stop()
	_, err := f.Freeze(ctx, mounts)
	if took := time.Since(began); !errors.Is(err, quiesce.ErrTooSlow) || took < 10*bound {
		t.Errorf("after %v: %v", took, err)
	}
	within(t, patience, "a write", writing(t, upper))
}
