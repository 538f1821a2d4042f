package rig

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// What keeps a machine below the directory of a bench ends with the bench, and nothing else.
func TestKeptAreEnded(t *testing.T) {
	r := newRig(t)
	start := func(dir string) (ended chan struct{}) {
		// Its shell waits for a line that never comes; its arguments are those of a keeper.
		cmd := exec.Command("sh", "-c", "read x", keepWord, filepath.Join(dir, "run"))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended = make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		t.Cleanup(func() {
			in.Close() // lets it end
			<-ended
		})
		return ended
	}
	ours, other := start(r.Dir), start(t.TempDir())
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ours:
	case <-time.After(time.Minute):
		t.Error("it is left behind")
	}
	select {
	case <-other:
		t.Error("that of somebody else was ended too")
	default:
	}
}
