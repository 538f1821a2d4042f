package embed

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/trust"
)

// enrolled makes a connection of an agent that was let in as a machine.
func enrolled(t *testing.T, s *Server, machine string, groups ...string) (nc *nats.Conn, publicKey string) {
	t.Helper()
	a, err := s.Authority(within(t))
	if err != nil {
		t.Fatal(err)
	}
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	publicKey, err = kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	token, err := a.Issue(machine, publicKey, groups)
	if err != nil {
		t.Fatal(err)
	}
	nc, err = nats.Connect(s.ClientURL(), nats.UserJWT(func() (string, error) { return token, nil }, kp.Sign),
		nats.CustomInboxPrefix(bus.InboxPrefix(publicKey)), nats.Timeout(patience), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, publicKey
}

type right struct {
	line            int
	action, subject string
	may             map[Role]bool
}

// rights reads the table of docs/ops/security.md.
func rights(t *testing.T) (out []right) {
	t.Helper()
	b, err := os.ReadFile("../docs/ops/security.md")
	if err != nil {
		t.Fatal(err)
	}
	var head []Role
	for i, line := range strings.Split(string(b), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for k := range cells {
			cells[k] = strings.TrimSpace(cells[k])
		}
		if len(cells) != 3+len(trust.Roles()) || strings.HasPrefix(cells[0], "---") {
			continue
		}
		if head == nil {
			for _, c := range cells[3:] {
				head = append(head, Role(c))
			}
			continue
		}
		r := right{i + 1, cells[0], strings.Trim(cells[1], "`"), map[Role]bool{}}
		for k, c := range cells[3:] {
			if c != "yes" && c != "-" {
				t.Fatalf("line %d: %q is neither yes nor -", i+1, c)
			}
			r.may[head[k]] = c == "yes"
		}
		out = append(out, r)
	}
	all := trust.Roles()
	slices.Sort(all)
	slices.Sort(head)
	if !slices.Equal(all, head) || len(out) < 40 {
		t.Fatalf("the table names the roles %v and has %d lines", head, len(out))
	}
	return out
}

// Every cell of the table is what a running server does.
func TestRightsAsDocumented(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	table := rights(t)
	for _, r := range trust.Roles() {
		var nc *nats.Conn
		if r == trust.Machine {
			nc, _ = enrolled(t, s, "web1", "web1")
		} else {
			nc = dial(t, s, r)
		}
		for _, l := range table {
			may := allowed(t, nc, l.subject, func() error {
				switch l.action {
				case "publish":
					return nc.Publish(l.subject, nil)
				case "hear":
					_, err := nc.SubscribeSync(l.subject)
					return err
				}
				t.Fatalf("line %d: unknown action %q", l.line, l.action)
				return nil
			})
			if may != l.may[r] {
				t.Errorf("line %d: %s of %s by %s: %v, documented is %v", l.line, l.action, l.subject, r, may, l.may[r])
			}
		}
	}
}

// A machine in groups speaks on theirs too, and its name may have capitals.
func TestMachineInGroups(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	nc, _ := enrolled(t, s, "Web-1", "Shop", "erp")
	for subject, want := range map[string]bool{
		"leeward.markers.Shop": true, "leeward.markers.erp": true, "leeward.markers.Web-1": true, "leeward.markers.shop": false, "leeward.markers.other": false,
		"leeward.changes.01.Web-1.sda": true, "leeward.changes.01.web-1.sda": false,
	} {
		if got := allowed(t, nc, subject, func() error { return nc.Publish(subject, nil) }); got != want {
			t.Errorf("%s: %v, want %v", subject, got, want)
		}
	}
}

// No token can be made into one for another machine or role.
func TestTokenCannotBeForged(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, c *jwt.UserClaims, signer nkeys.KeyPair) {
		t.Helper()
		token, err := c.Encode(signer)
		if err != nil {
			t.Fatal(err)
		}
		nc, err := nats.Connect(s.ClientURL(), nats.UserJWT(func() (string, error) { return token, nil }, kp.Sign), nats.Timeout(patience))
		if err == nil {
			nc.Close()
			t.Errorf("%s gets in", what)
		}
	}
	other, err := trust.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	c := jwt.NewUserClaims(public)
	c.Name, c.IssuerAccount = "web1", s.trust.Core()
	c.SetScoped(true)
	try("a token that a stranger signed", c, stranger)
	c.IssuerAccount = other.Core()
	try("a token of another account", c, stranger)
}
