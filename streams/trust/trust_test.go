package trust

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

func open(t *testing.T, dir string) *Trust {
	t.Helper()
	tr, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func publicUser(t *testing.T) string {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// The keys are made once, readable by their owner only, and the same afterwards.
func TestOpenTwice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir)
	read := func() map[string]string {
		out := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			st, err := e.Info()
			if err != nil {
				return err
			}
			if st.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", path, st.Mode())
			}
			b, err := os.ReadFile(path)
			out[path] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := read()
	b := open(t, dir)
	if len(before) < 20 || a.Core() != b.Core() || a.System() != b.System() {
		t.Fatalf("%d files", len(before))
	}
	for path, text := range read() {
		if before[path] != text {
			t.Errorf("%s changed", path)
		}
	}
	if _, err := a.Operator(); err != nil {
		t.Error(err)
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir)
	other := t.TempDir()
	open(t, other)
	for _, c := range []struct{ file, from string }{
		{"operator.nk", "accounts/leeward.nk"}, {"accounts/agents.nk", "operator.nk"}, {"sign/tap.nk", "operator.jwt"},
		{"users/tap.creds", "users/viewer.creds"}, {"users/operator.creds", "operator.nk"},
	} {
		file := filepath.Join(dir, c.file)
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		bad, err := os.ReadFile(filepath.Join(other, c.from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "restore it") {
			t.Errorf("%s: %v", c.file, err)
		}
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir)
}

// An account's token is made anew only when it says something new, and keeps who
// was revoked.
func TestAccountToken(t *testing.T) {
	t.Parallel()
	tr := open(t, t.TempDir())
	for _, account := range tr.Accounts() {
		first, changed, err := tr.AccountToken(account, "")
		if err != nil || !changed {
			t.Fatalf("%v, %v", changed, err)
		}
		again, changed, err := tr.AccountToken(account, first)
		if err != nil || changed || again != first {
			t.Errorf("made anew without need: %v", err)
		}
		vr := jwt.CreateValidationResults()
		c, err := jwt.DecodeAccountClaims(first)
		if err != nil {
			t.Fatal(err)
		}
		if c.Validate(vr); !vr.IsEmpty() {
			t.Errorf("account %s: %v", c.Name, vr.Errors())
		}
	}
	account := tr.accounts[agents]
	first, _, err := tr.AccountToken(account, "")
	if err != nil {
		t.Fatal(err)
	}
	gone := publicUser(t)
	second, err := tr.revoke(first, time.Now(), gone)
	if err != nil || second == "" {
		t.Fatal(err)
	}
	if more, err := tr.revoke(second, time.Now(), gone); err != nil || more != "" {
		t.Errorf("revoked twice: %v", err)
	}
	// Rights of an older version.
	c, err := jwt.DecodeAccountClaims(second)
	if err != nil {
		t.Fatal(err)
	}
	c.Imports = c.Imports[:1]
	old, err := c.Encode(tr.operator)
	if err != nil {
		t.Fatal(err)
	}
	third, changed, err := tr.AccountToken(account, old)
	if err != nil || !changed {
		t.Fatalf("%v, %v", changed, err)
	}
	if c, err = jwt.DecodeAccountClaims(third); err != nil || len(c.Imports) < 5 {
		t.Fatalf("%v", err)
	}
	if _, there := c.Revocations[gone]; !there {
		t.Error("the revocation is forgotten")
	}
	for what, token := range map[string]string{"nonsense": "x.y.z", "another operator's": must(t, open(t, t.TempDir()))} {
		if _, _, err := tr.AccountToken(account, token); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	if _, _, err := tr.AccountToken("AX", ""); err == nil {
		t.Error("a token for an account that is not ours")
	}
}

func must(t *testing.T, tr *Trust) string {
	t.Helper()
	token, _, err := tr.AccountToken(tr.accounts[agents], "")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Every subject that a role outside LEEWARD may publish is imported, or the right
// is an empty promise.
func TestRightsReachIn(t *testing.T) {
	t.Parallel()
	for _, r := range Roles() {
		in, out := gates(accountOf(r))
		if in == nil {
			continue
		}
		p := Permit(r)
		for _, s := range p.Publish.Allow {
			if s != whoami && !covered(s, in) {
				t.Errorf("%s may publish %s, which its account does not import", r, s)
			}
		}
		for _, s := range p.Subscribe.Allow {
			if s != inbox && s != "leeward.>" && !covered(s, out) {
				t.Errorf("%s may hear %s, which its account does not import", r, s)
			}
		}
		if len(p.Publish.Allow) == 0 {
			t.Errorf("%s may publish everything", r)
		}
	}
	if p := Permit("nobody"); len(p.Publish.Deny) == 0 || len(p.Subscribe.Deny) == 0 {
		t.Errorf("an unknown role has rights: %+v", p)
	}
}

func covered(subject string, by []string) bool {
	for _, b := range by {
		if jwt.Subject(subject).IsContainedIn(jwt.Subject(b)) || strings.HasSuffix(b, ".>") && strings.HasPrefix(subject, strings.TrimSuffix(b, ">")) {
			return true
		}
	}
	return false
}

// Where there were only operators, they were what admins are: who has a copy of their user
// keeps what it could, and operators are new.
func TestOldOperatorsAreAdmins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	was := open(t, dir)
	key, err := was.PublicKey(Operator)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"sign/admin.nk", "users/admin.creds"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // and the second time nothing changes
		is := open(t, dir)
		admin, err := is.PublicKey(Admin)
		if err != nil || admin != key {
			t.Errorf("the operator of then is %s, the admin of now %s, %v", key, admin, err)
		}
		if op, err := is.PublicKey(Operator); err != nil || op == key {
			t.Errorf("the operator of now is %s, %v", op, err)
		}
	}
	if len(Permit(Admin).Publish.Allow) != 0 || MayPublish(Operator, "leeward.api.token.new") || !MayPublish(Operator, "leeward.api.failover.start") || MayPublish(Operator, "leeward.api.failover.start.admin") {
		t.Error("an operator is an admin")
	}
	for pattern, subjects := range map[string][3]string{"a.*.c": {"a.b.c", "a.b", "a.b.c.d"}, "a.>": {"a.b.c", "a", "b.a"}, "a.b": {"a.b", "a", "a.b.c"}} {
		for i, s := range subjects {
			if covers(pattern, s) != (i == 0) {
				t.Errorf("%s covers %s: %v", pattern, s, i != 0)
			}
		}
	}
}
