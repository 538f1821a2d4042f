package embed

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/streams"
)

// childDir turns the test binary into an appliance's server that publishes until
// it is killed.
const childDir = "LEEWARD_TEST_EMBED_CHILD"

func child(dir string) {
	fail := func(err error) {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	s, err := Start(context.Background(), config(dir))
	if err != nil {
		fail(err)
	}
	b, err := s.Connect(context.Background(), Admin)
	if err != nil {
		fail(err)
	}
	if err := streams.Ensure(context.Background(), b.JS, s.Streams()); err != nil {
		fail(err)
	}
	for i := 1; ; i++ {
		a, err := b.JS.Publish(context.Background(), streams.ChangesSubject("m", "d"), make([]byte, 10_000))
		if err != nil {
			fail(err)
		}
		fmt.Println(a.Sequence)
	}
}

// kill -9 at any moment: the directory is free at once, and everything that was
// acknowledged is there. (A power failure may take the tail; this is none.)
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	acked := uint64(0)
	for round, wait := range []uint64{1, 40, 200} {
		acked = runAndKill(t, dir, acked+wait)
		s := start(t, config(dir))
		b := ensured(t, s)
		st, err := b.JS.Stream(within(t), streams.Changes)
		if err != nil {
			t.Fatal(err)
		}
		if n := st.CachedInfo().State.Msgs; n < acked {
			t.Fatalf("round %d: %d acknowledged, %d there", round, acked, n)
		}
		acked = st.CachedInfo().State.Msgs
		stop(t, s)
	}
}

// runAndKill returns the last acknowledged sequence.
func runAndKill(t *testing.T, dir string, until uint64) (last uint64) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(within(t), exe)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n, err := strconv.ParseUint(strings.TrimSpace(lines.Text()), 10, 64)
		if err != nil {
			t.Fatalf("the child says %q", lines.Text())
		}
		if last = n; last == until {
			// While it runs nobody else gets in.
			refused(t, config(dir), "in use", fmt.Sprintf("process %d", cmd.Process.Pid))
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); last < until {
		t.Fatalf("the child ended at %d of %d: %v", last, until, err)
	}
	return last
}
