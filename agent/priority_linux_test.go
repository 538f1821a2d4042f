package agent

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test runs in a process of its own: a class cannot be taken back.
func TestIOClass(t *testing.T) {
	if class, ok := os.LookupEnv("LEEWARD_TEST_IO_CLASS"); ok {
		if err := SetIOClass(class); err != nil {
			t.Fatal(err)
		}
		done := make(chan uintptr)
		for range 8 { // threads that are made later have it too
			go func() {
				time.Sleep(10 * time.Millisecond)
				p, _, _ := unix.RawSyscall(unix.SYS_IOPRIO_GET, ioThread, 0, 0)
				done <- p
			}()
		}
		for range 8 {
			if p := <-done; p>>ioShift != ioIdle {
				t.Errorf("a thread has priority %#x", p)
			}
		}
		return
	}
	if SetIOClass("best") == nil {
		t.Error("a class that does not exist was set")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestIOClass$", "-test.v")
	cmd.Env = append(os.Environ(), "LEEWARD_TEST_IO_CLASS=idle")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Fatalf("%v: %s", err, out)
	}
}
