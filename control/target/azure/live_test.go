//go:build azure

package azure

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

// TestLive brings a machine up in a real subscription and removes it: go test -tags azure
// -run TestLive ./control/target/azure. It costs a little money, and takes some minutes.
//
// LEEWARD_AZURE names a file of settings (see ReadPlace); who we are is for azidentity to
// find out. LEEWARD_AZURE_IMAGE may name a bootable image, a raw disk with a BIOS boot
// loader whose kernel writes "Linux version" to ttyS0; without one a boot sector is sent
// that says tick= again and again.
func TestLive(t *testing.T) {
	file := os.Getenv("LEEWARD_AZURE")
	if file == "" {
		t.Skip("LEEWARD_AZURE is not set: name a file with settings of a subscription")
	}
	p, err := ReadPlace(file)
	if err != nil {
		t.Fatal(err)
	}
	m, want := machine(targettest.Ticking("tick")), "tick="
	if image := os.Getenv("LEEWARD_AZURE_IMAGE"); image != "" {
		m.Disks[0], want = targettest.Image(t, "sda", image), "Linux version"
	}
	dir := t.TempDir()
	cfg := Config{Place: p, Isolated: true}
	run, err := New(cfg).Start(t.Context(), m, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := run.Stop(t.Context()); err != nil {
			t.Errorf("it is still there: %v", err)
		}
		left, err := List(t.Context(), cfg, run.(*Run).b.Run)
		if err != nil || len(left) > 0 {
			t.Errorf("left: %+v, %v", left, err)
		}
	}()
	probe := booted
	probe.Serial, probe.Timeout = want, 15*time.Minute
	res, err := run.Probe(t.Context(), probe)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", res)
	if !res.Alive {
		b, err := os.ReadFile(res.SerialLog)
		t.Errorf("not alive; the serial log ends %q, %v", bytes.TrimSpace(b[max(0, len(b)-500):]), err)
	}
}
