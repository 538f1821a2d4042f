package web

import (
	"crypto/tls"
	"testing"

	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/streams/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPagesAreWhole(t *testing.T) {
	if _, err := New(Config{}); err != nil {
		t.Fatal(err)
	}
}

// What a role is shown is what the bus lets it do.
func TestMay(t *testing.T) {
	for _, c := range []struct {
		role trust.Role
		verb string
		want bool
	}{
		{trust.Viewer, "machine.ls", true}, {trust.Viewer, "status.show", true}, {trust.Viewer, "failover.test", false}, {trust.Viewer, "token.new", false},
		{trust.Viewer, "session.operator", false}, {trust.Tester, "failover.test", true}, {trust.Tester, "failover.cleanup", true}, {trust.Tester, "failover.start", false},
		{trust.Tester, "plan.run", false}, {trust.Operator, "failover.start", true}, {trust.Operator, "user.set", false}, {trust.Operator, "failover.start.admin", false}, {trust.Admin, "user.set", true}, {trust.Admin, "failover.start.admin", true}, {trust.Tap, "machine.ls", false}, {"nobody", "machine.ls", false},
	} {
		if got := may(c.role, c.verb); got != c.want {
			t.Errorf("%s, %s: %v", c.role, c.verb, got)
		}
	}
}

// Whoever is sent back after signing in stays on this host.
func TestPathsStayHere(t *testing.T) {
	for in, want := range map[string]string{
		"/machines/web?x=1": "/machines/web?x=1", "": "/", "https://evil.example/x": "/x", "//evil.example/x": "/x", "/\\evil.example": "/", "javascript:alert(1)": "/",
		"/..//evil.example": "/..//evil.example", "%": "/", "///evil.example": "/",
	} {
		if got := pathOf(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// trusting takes the certificates of httptest as they are.
func trusting() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
