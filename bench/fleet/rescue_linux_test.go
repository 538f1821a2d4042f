package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
)

// rescueWord makes this binary bring a machine home, with options in the argument after it.
const rescueWord = "run-rescue"

// A machine comes home onto bare metal in a namespace of its own, over TLS with one-time
// tokens, by the programs themselves; the metal loses its power in the middle.
func TestRescueHome(t *testing.T) {
	if os.Getenv("LEEWARD_FULL") == "" {
		t.Skip("SKIPPED: a minute long: LEEWARD_FULL=1 brings a machine home in network namespaces, bench rescue does it with 8 GiB")
	}
	if m, ok := rig.Have("ip", "nsenter", "qemu-system-x86_64", "losetup"); !ok || !rig.Root() {
		t.Fatalf("it needs root and %s", m)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	bin, err := product.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(RescueOptions{Size: 1 << 30, Fill: 0.2, Share: 0.01, Kill: true, Seed: 5, Limit: 4 * time.Minute, Bin: bin, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, os.Args[0], rescueWord, string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it cleans up
	cmd.WaitDelay = time.Minute
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	var r RescueResult
	if err = errors.Join(err, json.Unmarshal(out, &r)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !r.OK(1.2) || !r.Killed {
		t.Errorf("it did not come home as promised: %s", out)
	}
	t.Logf("%s", out)
}
