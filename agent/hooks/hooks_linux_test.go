package hooks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/hooks"
)

// TestMain lets this binary be the keeper, and an agent that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "hook-keeper":
			os.Exit(hooks.KeeperMain())
		case "victim":
			os.Exit(victim(os.Args[2], os.Args[3:]))
		}
	}
	os.Exit(m.Run())
}

// victim begins a session, says so, and waits to be killed.
func victim(dir string, scripts []string) int {
	var o hooks.Options
	o.Dir, o.Hold = dir, time.Minute
	for _, s := range scripts {
		o.Hooks = append(o.Hooks, shell(filepath.Base(s), s))
	}
	if _, err := hooks.Begin(context.Background(), o); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func shell(name, text string) hooks.Hook {
	return hooks.Hook{Name: name, Command: []string{"/bin/sh", "-c", text, name}}
}

// diary is a file that hooks write their steps into.
func diary(t *testing.T) (path string, read func() string) {
	path = filepath.Join(t.TempDir(), "diary")
	return path, func() string {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(b)), " ")
	}
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestPreInOrderPostInReverse(t *testing.T) {
	t.Parallel()
	path, read := diary(t)
	note := fmt.Sprintf(`echo "$0-$1" >> %s`, path)
	s, err := hooks.Begin(t.Context(), hooks.Options{Dir: t.TempDir(), Hooks: []hooks.Hook{shell("a", note), shell("b", note)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "a-pre b-pre" {
		t.Fatalf("after Begin the hooks did %q", got)
	}
	if err := s.End(); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "a-pre b-pre b-post a-post" {
		t.Fatalf("after End the hooks did %q", got)
	}
	if s.End() == nil {
		t.Fatal("a second End succeeded")
	}
}

func TestFailedPreIsFollowedByEveryPost(t *testing.T) {
	t.Parallel()
	path, read := diary(t)
	note := fmt.Sprintf(`echo "$0-$1" >> %s; `, path)
	dir := t.TempDir()
	_, err := hooks.Begin(t.Context(), hooks.Options{Dir: dir, Hooks: []hooks.Hook{
		shell("a", note), shell("b", note+`[ "$1" = post ] || { echo the disk is on fire >&2; exit 3; }`), shell("c", note)}})
	if !errors.Is(err, hooks.ErrPre) || !strings.Contains(err.Error(), "hook b pre: exit status 3: the disk is on fire") {
		t.Fatalf("error is %v", err)
	}
	if got := read(); got != "a-pre b-pre b-post a-post" {
		t.Fatalf("the hooks did %q", got)
	}
	until(t, "the session's directory to be gone", func() bool { e, _ := os.ReadDir(dir); return len(e) == 0 })
}

func TestHangingPreIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	path, read := diary(t)
	text := fmt.Sprintf(`[ "$1" = post ] && { echo post >> %s; exit 0; }; trap "" TERM; sh -c 'trap "" TERM; echo $$ > %s.pid; sleep 300; sleep 300' & wait; sleep 300`, path, path)
	var pid []byte
	for limit := 500 * time.Millisecond; len(pid) == 0; limit *= 4 { // until it had time to make a child
		began := time.Now()
		_, err := hooks.Begin(t.Context(), hooks.Options{Dir: t.TempDir(), PreTimeout: limit, Hooks: []hooks.Hook{shell("stuck", text)}})
		if !errors.Is(err, hooks.ErrPre) || !strings.Contains(err.Error(), "not done within "+limit.String()) {
			t.Fatalf("error after %v is %v", time.Since(began), err)
		}
		if pid, err = os.ReadFile(path + ".pid"); err != nil && limit > time.Minute {
			t.Fatal(err)
		}
		if got := read(); !strings.HasPrefix(got, "post") {
			t.Fatalf("the hooks did %q", got)
		}
	}
	until(t, "the child to be gone", func() bool {
		b, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return err != nil || strings.Contains(string(b), ") Z ")
	})
}

func TestHangingPostIsReported(t *testing.T) {
	t.Parallel()
	s, err := hooks.Begin(t.Context(), hooks.Options{Dir: t.TempDir(), PostTimeout: 300 * time.Millisecond,
		Hooks: []hooks.Hook{shell("stuck", `[ "$1" = pre ] || sleep 300`)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.End(); !errors.Is(err, hooks.ErrPost) || errors.Is(err, hooks.ErrLate) {
		t.Fatalf("error is %v", err)
	}
}

func TestHoldTimeIsOver(t *testing.T) {
	t.Parallel()
	path, read := diary(t)
	s, err := hooks.Begin(t.Context(), hooks.Options{Dir: t.TempDir(), Hold: 200 * time.Millisecond, // from when pre is done
		Hooks: []hooks.Hook{shell("a", fmt.Sprintf(`echo "$1" >> %s`, path))}})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "post without an End", func() bool { return read() == "pre post" })
	if err := s.End(); !errors.Is(err, hooks.ErrLate) {
		t.Fatalf("End after the hold time: %v", err)
	}
	if got := read(); got != "pre post" {
		t.Fatalf("the hooks did %q", got)
	}
}

// A lock that the first hook holds must not wait for the second hook's own limit.
func TestHoldTimeCountsFromTheFirstPre(t *testing.T) {
	t.Parallel()
	_, err := hooks.Begin(t.Context(), hooks.Options{Dir: t.TempDir(), Hold: 300 * time.Millisecond, PreTimeout: time.Minute,
		Hooks: []hooks.Hook{shell("lock", ""), shell("slow", `[ "$1" = post ] || sleep 30`)}})
	if !errors.Is(err, hooks.ErrPre) || !strings.Contains(err.Error(), "others have waited") {
		t.Fatalf("error is %v", err)
	}
}

func TestPostRunsWhenTheAgentIsKilled(t *testing.T) {
	for _, when := range []string{"ready", "in pre"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			path, read := diary(t)
			text := fmt.Sprintf(`echo "$1" >> %s`, path)
			if when == "in pre" {
				text += `; [ "$1" = post ] || sleep 30`
			}
			cmd := exec.Command("/proc/self/exe", "victim", t.TempDir(), text)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if when == "ready" {
				b := make([]byte, 64)
				n, _ := out.Read(b)
				if string(b[:n]) != "ready\n" {
					t.Fatalf("the victim says %q", b[:n])
				}
			}
			until(t, "pre", func() bool { return read() == "pre" })
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			until(t, "post after the agent's death", func() bool { return read() == "pre post" })
		})
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("LEEWARD_AGENT_KEY_FILE", "/secret")
	t.Setenv("PGHOST", "/run/pg")
	path, read := diary(t)
	s, err := hooks.Begin(t.Context(), hooks.Options{Dir: t.TempDir(), Machine: "web1", Hold: 59500 * time.Millisecond,
		Hooks: []hooks.Hook{shell("env", fmt.Sprintf(`[ "$1" = post ] || echo "$LEEWARD_MACHINE $LEEWARD_HOLD ${LEEWARD_AGENT_KEY_FILE-none} $PGHOST $(ls -d "$LEEWARD_DIR" | wc -l)" > %s`, path))}})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "web1 60 none /run/pg 1" {
		t.Errorf("a hook sees %q", got)
	}
	if err := s.End(); err != nil && !errors.Is(err, hooks.ErrLate) {
		t.Fatal(err)
	}
}

func TestParse(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"good": 0o755, "plain": 0o644, "open": 0o777} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for arg, want := range map[string]string{"me@postgresql": "postgresql me", "mariadb": "mariadb ", dir + "/good": "good ", "me@" + dir + "/good": "good me"} {
		h, err := hooks.Parse(arg)
		if err != nil || h.Name+" "+h.User != want {
			t.Errorf("%s: %+v, %v", arg, h, err)
		}
	}
	bad := []string{"", "oracle", "@mariadb", dir + "/none", dir + "/plain", dir}
	if os.Geteuid() == 0 {
		bad = append(bad, dir+"/open")
	}
	for _, arg := range bad {
		if h, err := hooks.Parse(arg); err == nil {
			t.Errorf("%q is taken as %+v", arg, h)
		}
	}
}
