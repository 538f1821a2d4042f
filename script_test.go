package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/vaulttest"
	"github.com/leeward-dr/leeward/streams/wire"
)

func TestMain(m *testing.M) {
	// Tests have their program run again: as a keeper, or as the guard of an agent. A word
	// that is not known here must not run the tests again, within themselves.
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") && filepath.Base(os.Args[0]) != "leeward" {
		switch os.Args[1] {
		case keepName, failover.FixMachine:
			os.Exit(run())
		case "guard":
			os.Exit(quiesce.GuardMain())
		}
		os.Stderr.WriteString("this test binary knows no command " + os.Args[1] + "\n")
		os.Exit(2)
	}
	testscript.Main(m, map[string]func(){"leeward": func() { os.Exit(run()) }})
}

// The scripts are the specification of the command line. They run the real program
// and need no server; $VAULT and $KEYFILE name a small vault.
func TestScripts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	v := vaulttest.In(t, dir)
	start := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for i, consistency := range []string{"crash", "app", "crash"} {
		v.Point(t, "p"+strconv.Itoa(i+1), "web", consistency, start.Add(time.Duration(i)*time.Minute))
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("VAULT", v.URL)
			e.Setenv("VAULTDIR", dir)
			e.Setenv("KEYFILE", v.KeyFile)
			e.Setenv("LEEWARD_DIR", filepath.Join(e.WorkDir, "appliance"))
			return payloads(e.WorkDir)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "mode": mode, "damage": damage, "copydir": copyDir, "usedslot": usedSlot, "flip": flip,
		},
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// exits runs a command and wants an exit code: exits 4 leeward …
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARGS...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, want %s\nstdout: %sstderr: %s", code, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// mode changes a file's mode: mode 0644 FILE
func mode(ts *testscript.TestScript, _ bool, args []string) {
	m, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	ts.Check(os.Chmod(ts.MkAbs(args[1]), os.FileMode(m)))
}

// damage flips a bit in the middle of the first file that matches: damage PATTERN
func damage(ts *testscript.TestScript, _ bool, args []string) {
	all, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(all) == 0 {
		ts.Fatalf("no file %s", args[0])
	}
	b, err := os.ReadFile(all[0])
	ts.Check(err)
	b[len(b)/2] ^= 4
	ts.Check(os.Chmod(all[0], 0o600))
	ts.Check(os.WriteFile(all[0], b, 0o600))
}

// flip flips a bit of the first file that matches, at an offset from its end: flip PATTERN -N
func flip(ts *testscript.TestScript, _ bool, args []string) {
	all, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	if len(all) == 0 {
		ts.Fatalf("no file %s", args[0])
	}
	b, err := os.ReadFile(all[0])
	ts.Check(err)
	b[len(b)+at] ^= 4
	ts.Check(os.Chmod(all[0], 0o600))
	ts.Check(os.WriteFile(all[0], b, 0o600))
}

// usedslot sets a variable to the slot that a key opens of the vault in v: usedslot KEYFILE NAME
func usedSlot(ts *testscript.TestScript, _ bool, args []string) {
	key, err := vault.KeyFromFile(ts.MkAbs(args[0]))
	ts.Check(err)
	st, err := vault.OpenStore(ts.MkAbs("v"), false)
	ts.Check(err)
	v, err := vault.Unlock(context.Background(), st, key)
	ts.Check(err)
	slots, _, err := v.Keys(context.Background())
	ts.Check(err)
	for _, s := range slots {
		if s.Used {
			ts.Setenv(args[1], s.ID)
		}
	}
}

// copydir copies a directory: copydir FROM TO
func copyDir(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(ts.MkAbs(args[0]))))
}

// payloads writes one message of each kind, as the bus carries them.
func payloads(dir string) error {
	open := &wire.Change{Kind: wire.KindOpen, Machine: "web", Disk: "sda", Epoch: 1, Number: 1, Time: 1,
		Open: &wire.Open{Size: 8192, Capture: "scan", Reason: "first"}}
	marker := &wire.Marker{ID: "p1", Group: "web", Time: 1, Consistency: wire.Crash, Members: []wire.Member{{
		Machine: "web", Disks: []wire.DiskCut{{Disk: "sda", Epoch: 1, Number: 2, Size: 8192}}}}}
	receipt := &wire.Receipt{Machine: "web", Disk: "sda", Epoch: 1, Number: 2}
	b1, err1 := wire.Encode(open)
	b2, err2 := wire.Encode(marker)
	b3, err3 := wire.Encode(receipt)
	err := errors.Join(err1, err2, err3)
	for name, b := range map[string][]byte{"change.bin": b1, "marker.bin": b2, "receipt.bin": b3, "empty.bin": nil, "short.bin": b2[:len(b2)/2]} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	return err
}
