package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/control/api"
)

// terminalPair returns the two ends of a terminal: what a person has, and what a program
// sees.
func terminalPair(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatalf("no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// Who removes something at a terminal types its name; a script is not asked, and is held
// to the name it gives.
func TestCareful(t *testing.T) {
	person, program := terminalPair(t)
	for _, c := range []struct {
		name, types string
		args        []string
		done        bool
	}{
		{"typed", "shop\n", []string{"shop"}, true},
		{"mistyped", "shap\n", []string{"shop"}, false},
		{"nothing typed", "\n", []string{"shop"}, false},
		{"given", "", []string{"shop", "--confirm", "shop"}, true},
		{"given wrong", "", []string{"shop", "--confirm", "web"}, false},
	} {
		var errs bytes.Buffer
		a := &app{Options: Options{In: program, Out: &errs, Err: &errs}}
		done := false
		cmd := a.careful(&cobra.Command{
			Use: "delete GROUP", SilenceErrors: true, SilenceUsage: true,
			RunE: func(*cobra.Command, []string) error { done = true; return nil },
		}, func(g string) string { return "remove " + g })
		cmd.SetArgs(c.args)
		if _, err := person.WriteString(c.types); err != nil {
			t.Fatal(err)
		}
		err := cmd.Execute()
		if done != c.done || (err == nil) != c.done {
			t.Errorf("%s: done %v, %v, said %q", c.name, done, err, errs.String())
		}
		if code, _, try := classify(errOr(err)); !c.done && (code != ExitRefused || !strings.Contains(try, "--confirm shop")) {
			t.Errorf("%s: code %d, try %q", c.name, code, try)
		}
		if asks := strings.Contains(errs.String(), "this will remove shop\ntype shop to go on: "); asks != (c.types != "") {
			t.Errorf("%s: said %q", c.name, errs.String())
		}
	}
	script := &app{Options: Options{In: strings.NewReader(""), Err: &bytes.Buffer{}}}
	done := false
	cmd := script.careful(&cobra.Command{Use: "delete GROUP", RunE: func(*cobra.Command, []string) error { done = true; return nil }}, func(string) string { return "" })
	cmd.SetArgs([]string{"shop"})
	if err := cmd.Execute(); err != nil || !done {
		t.Errorf("a script: %v, %v", done, err)
	}
}

func errOr(err error) error {
	if err == nil {
		return errors.New("none")
	}
	return err
}

// Long work redraws one line on a terminal; elsewhere there are plain lines, and few.
func TestProgressKnowsTerminals(t *testing.T) {
	person, program := terminalPair(t)
	p := newProgress(program)
	p.last = time.Time{}
	p.show("sda", 1<<20, 4<<20)
	p.last = time.Time{}
	p.show("sda", 2<<20, 4<<20)
	p.say("it is done")
	p.done()
	got := make([]byte, 4096)
	n, err := person.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	for text := string(got[:n]); !strings.Contains(text, "it is done"); text = string(got[:n]) {
		more, err := person.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += more
	}
	if text := string(got[:n]); strings.Count(text, "\r\x1b[K") < 3 || !strings.Contains(text, "sda 50% 2 MiB/4 MiB") || strings.Count(text, "\n") != 1 {
		t.Errorf("a terminal shows %q", text)
	}
	var plain bytes.Buffer
	p = newProgress(&plain)
	for range 100 {
		p.show("sda", 1<<20, 4<<20) // within ten seconds of its beginning
	}
	if plain.Len() != 0 {
		t.Errorf("elsewhere it says %q at once", plain.String())
	}
	p.last = time.Now().Add(-time.Minute)
	p.show("sda", 2<<20, 4<<20)
	p.show("sda", 3<<20, 4<<20)
	p.done()
	if text := plain.String(); strings.Count(text, "\n") != 1 || strings.Contains(text, "\x1b") || !strings.Contains(text, "sda 50% 2 MiB/4 MiB") {
		t.Errorf("elsewhere it says %q", text)
	}
}

// A watch shows one document a line, over one connection, until it is ended.
func TestWatched(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	closed := 0
	a := &app{Options: Options{Out: &out, Err: &bytes.Buffer{}}, output: "json"}
	shown := 0
	c := &cobra.Command{Use: "show", RunE: func(*cobra.Command, []string) error {
		if a.shared == nil {
			a.shared = &shared{&api.Client{}, func() { closed++ }}
		}
		if shown++; shown == 3 {
			cancel()
		}
		return a.print(items("leeward.x.v1", []string{"a", "b"}), nil)
	}}
	a.watched(c)
	c.SetArgs([]string{"--watch", "--interval", "1ms"})
	if err := c.ExecuteContext(ctx); err != nil || shown != 3 || closed != 1 {
		t.Errorf("shown %d times, closed %d times, %v", shown, closed, err)
	}
	if want := strings.Repeat(`{"schema":"leeward.x.v1","items":["a","b"]}`+"\n", 3); out.String() != want {
		t.Errorf("it printed %q", out.String())
	}
	c = &cobra.Command{Use: "show", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return errors.New("it broke") }}
	a.watched(c)
	c.SetArgs([]string{"-w"})
	if err := c.ExecuteContext(t.Context()); err == nil {
		t.Error("an error ends no watch")
	}
}
