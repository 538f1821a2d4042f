package appliance

import (
	"strings"
	"testing"
)

// The shell offers what there is.
func TestCompletion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	startHere(t, dir)
	a := newAgent(t, dir)
	b := connect(t, dir, "agent")
	defer b.Close()
	a.point()
	a.send(b)
	a.listed()
	for _, c := range []struct{ args, want string }{
		{"machine show|", "web\t"},
		{"point ls|", "web\t"},
		{"point show|", "p0000\t"},
		{"failover test|", "web\t"},
		{"failover test|web|--point|", "latest\n"},
		{"failover test|web|--point|", "p0000\t"},
		{"check|--machine|", "web\t"},
		{"policy show|", "default\n"},
	} {
		words := strings.Split(strings.TrimSuffix(c.args, "|"), "|")
		full := append([]string{"__complete", "--dir", dir}, append(strings.Fields(words[0]), words[1:]...)...)
		code, out, errs := lwRaw(t, t.Context(), append(full, "")...) // the word to complete comes last
		if code != 0 || !strings.Contains("\n"+out, "\n"+c.want) || !strings.HasSuffix(out, ":4\n") {
			t.Errorf("%s: code %d, %q, %s; want %q", c.args, code, out, errs, c.want)
		}
	}
	code, out, _ := lwRaw(t, t.Context(), "__complete", "--dir", t.TempDir(), "machine", "show", "")
	if code != 0 || out != ":4\n" {
		t.Errorf("without an appliance: code %d, %q", code, out)
	}
}
