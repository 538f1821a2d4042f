package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/leeward-dr/leeward/streams"
)

// accountName is a world of subjects on the servers.
type accountName string

// The accounts. Streams, process servers and control live in LEEWARD. Everybody
// else is outside and reaches in through what the accounts import: there is no way
// to a subject that is not imported, not even by having the server or a service
// send an answer there, because an answer comes out where the request went in.
const (
	core      accountName = "LEEWARD"
	agents    accountName = "AGENTS"
	people    accountName = "PEOPLE"
	systemAcc accountName = "SYS"
)

var accountNames = [...]accountName{core, agents, people, systemAcc}

func accountOf(r Role) accountName {
	switch r {
	case Machine, Agent:
		return agents
	case Operator, Viewer, Tester, Tap:
		return people
	case system:
		return systemAcc
	}
	return core
}

// gates is what an account imports from LEEWARD: requests and publications on
// their way in, and messages on their way out.
func gates(a accountName) (in, out []string) {
	lease := "KV_" + streams.Leases
	switch a {
	case agents:
		in = []string{"leeward.changes.>", "leeward.markers.>", "leeward.events.>", "leeward.sums.>", "leeward.barrier.*.report", "leeward.policy.*.ask", "leeward.rescue.*.report", "$KV." + streams.Leases + ".>", "$JS.API.INFO"}
		for _, s := range []string{streams.Changes, streams.Receipts, streams.Markers, lease} {
			in = append(in, "$JS.API.STREAM.INFO."+s)
			if s != streams.Changes { // and those of pools
				in = append(in, "$JS.API.DIRECT.GET."+s+".>")
			}
		}
		in = append(in, "$JS.API.DIRECT.GET.*.leeward.changes.>")
		return in, []string{"leeward.receipts.>", "leeward.markers.>", "leeward.commands.>", "leeward.barrier.*.order", "leeward.policy.*.set", "leeward.rescue.*.order"}
	case people:
		in = []string{
			"leeward.api.>", "$SRV.>", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*",
			"$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*", "$JS.API.DIRECT.GET." + lease + ".>",
		}
		for _, s := range tapped {
			in = append(in, "$JS.API.DIRECT.GET."+s, "$JS.API.DIRECT.GET."+s+".>", "$JS.API.STREAM.MSG.GET."+s)
		}
		return in, []string{"leeward.tap.>", "leeward.receipts.>", "leeward.markers.>", "leeward.events.>"}
	}
	return nil, nil
}

// exports is what LEEWARD lets other accounts import; which part of it they do,
// gates says.
func exports(c *jwt.AccountClaims) {
	for subject, kind := range map[string]jwt.ResponseType{
		"leeward.>": jwt.ResponseTypeSingleton, "$KV." + streams.Leases + ".>": jwt.ResponseTypeSingleton,
		"$JS.API.>": jwt.ResponseTypeSingleton, "$SRV.>": jwt.ResponseTypeStream,
	} {
		c.Exports.Add(&jwt.Export{Subject: jwt.Subject(subject), Type: jwt.Service, ResponseType: kind})
	}
	c.Exports.Add(&jwt.Export{Subject: "leeward.>", Type: jwt.Stream})
}

// claims makes an account's token anew: the rights of this version of Leeward, and
// the revocations of the token that was.
func (t *Trust) claims(a accountName, was *jwt.AccountClaims) (*jwt.AccountClaims, error) {
	c := jwt.NewAccountClaims(t.accounts[a])
	c.Name = string(a)
	switch a {
	case core:
		c.Limits.JetStreamLimits = jwt.JetStreamLimits{
			MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit, MaxAckPending: jwt.NoLimit,
		}
		exports(c)
	case systemAcc:
		public, err := t.sign[system].PublicKey()
		if err != nil {
			return nil, fmt.Errorf("signing key of the system user: %w", err)
		}
		c.SigningKeys.Add(public)
	}
	in, out := gates(a)
	for _, s := range in {
		c.Imports.Add(&jwt.Import{Account: t.accounts[core], Subject: jwt.Subject(s), Type: jwt.Service})
	}
	for _, s := range out {
		c.Imports.Add(&jwt.Import{Account: t.accounts[core], Subject: jwt.Subject(s), Type: jwt.Stream})
	}
	sort.Sort(c.Exports)
	sort.Sort(c.Imports)
	for _, r := range Roles() {
		if accountOf(r) != a {
			continue
		}
		s, err := t.scope(r)
		if err != nil {
			return nil, err
		}
		c.SigningKeys.AddScopedSigner(s)
	}
	if was != nil {
		c.Revocations = maps.Clone(was.Revocations)
	}
	return c, nil
}

// scope says what users may do whose token the role's key signed.
func (t *Trust) scope(r Role) (*jwt.UserScope, error) {
	public, err := t.sign[r].PublicKey()
	if err != nil {
		return nil, fmt.Errorf("signing key of role %s: %w", r, err)
	}
	s := jwt.NewUserScope()
	s.Key, s.Role = public, string(r)
	p := Permit(r)
	s.Template.Pub = jwt.Permission{Allow: p.Publish.Allow, Deny: p.Publish.Deny}
	s.Template.Sub = jwt.Permission{Allow: p.Subscribe.Allow, Deny: p.Subscribe.Deny}
	return s, nil
}

// same reports whether two tokens of an account say the same.
func same(a, b *jwt.AccountClaims) bool {
	if a == nil || b == nil || len(a.SigningKeys) != len(b.SigningKeys) {
		return false
	}
	for k, s := range a.SigningKeys {
		other, ok := b.SigningKeys[k]
		if !ok || !reflect.DeepEqual(normal(s), normal(other)) {
			return false
		}
	}
	text := func(c *jwt.AccountClaims) []byte {
		n := c.Account
		n.SigningKeys, n.GenericFields = nil, jwt.GenericFields{}
		b, err := json.Marshal(n)
		if err != nil {
			return nil
		}
		return b
	}
	return bytes.Equal(text(a), text(b))
}

// normal is a scope whose lists of subjects are in order.
func normal(s jwt.Scope) any {
	u, ok := s.(*jwt.UserScope)
	if !ok {
		return nil // a key without a scope
	}
	n := *u
	for _, l := range []*jwt.StringList{&n.Template.Pub.Allow, &n.Template.Pub.Deny, &n.Template.Sub.Allow, &n.Template.Sub.Deny} {
		*l = slices.Sorted(slices.Values(*l))
		if len(*l) == 0 {
			*l = nil
		}
	}
	return n
}

// Accounts lists the accounts' public keys, their names on servers.
func (t *Trust) Accounts() (out []string) {
	for _, a := range accountNames {
		out = append(out, t.accounts[a])
	}
	return out
}

// Core is the account of the streams.
func (t *Trust) Core() string { return t.accounts[core] }

// System is the account that servers use for themselves.
func (t *Trust) System() string { return t.accounts[systemAcc] }

// AccountToken is the token that servers shall have of an account now, given the
// one they have; "" if there is none yet. changed is false where that one will do.
func (t *Trust) AccountToken(account, was string) (token string, changed bool, err error) {
	name, err := t.name(account)
	if err != nil {
		return "", false, err
	}
	old, err := t.decode(account, was)
	if err != nil {
		return "", false, err
	}
	c, err := t.claims(name, old)
	if err != nil {
		return "", false, err
	}
	if same(c, old) {
		return was, false, nil
	}
	token, err = c.Encode(t.operator)
	return token, true, err
}

func (t *Trust) name(account string) (accountName, error) {
	for n, public := range t.accounts {
		if public == account {
			return n, nil
		}
	}
	return "", fmt.Errorf("%.80q is none of our accounts", account)
}

// decode reads a token of an account of ours; nil for "".
func (t *Trust) decode(account, token string) (*jwt.AccountClaims, error) {
	token = strings.TrimSpace(token)
	if token == "" {
		return nil, nil
	}
	c, err := jwt.DecodeAccountClaims(token)
	if err != nil {
		return nil, fmt.Errorf("the account's token is unreadable: %w", err)
	}
	public, err := t.operator.PublicKey()
	if err != nil {
		return nil, err
	}
	if c.Subject != account || c.Issuer != public {
		return nil, errors.New("the account's token is not ours: another operator signed it")
	}
	return c, nil
}

// revoke adds agents to those that their account refuses. It returns "" when they
// were in it already.
func (t *Trust) revoke(was string, at time.Time, publicKeys ...string) (string, error) {
	old, err := t.decode(t.accounts[agents], was)
	if err != nil {
		return "", err
	}
	c, err := t.claims(agents, old)
	if err != nil {
		return "", err
	}
	fresh := false
	for _, k := range publicKeys {
		if !nkeys.IsValidPublicUserKey(k) {
			return "", fmt.Errorf("%.80q is no public key of a user", k)
		}
		if _, there := c.Revocations[k]; !there {
			c.RevokeAt(k, at)
			fresh = true
		}
	}
	if !fresh {
		return "", nil
	}
	return c.Encode(t.operator)
}

// ServerConfig is the piece of nats-server.conf that makes servers of one's own
// judge the users of this directory. store is where each keeps the accounts' tokens:
// a path, or $NAME of the server's environment.
func (t *Trust) ServerConfig(store string) (string, error) {
	op, err := t.Operator()
	if err != nil {
		return "", err
	}
	token, err := op.Encode(t.operator)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# The operator of this Leeward. Tokens are no secrets: they say who signs, not how.\noperator: %s\nsystem_account: %s\n", token, t.System())
	fmt.Fprintf(&b, "resolver: { type: full, dir: %s, allow_delete: false, interval: \"2m\" }\nresolver_preload: {\n", quoted(store))
	for _, a := range accountNames {
		token, _, err := t.AccountToken(t.accounts[a], "")
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "  %s: %s # %s\n", t.accounts[a], token, a)
	}
	b.WriteString("}\n")
	return b.String(), nil
}

func quoted(store string) string {
	if strings.HasPrefix(store, "$") {
		return store
	}
	return fmt.Sprintf("%q", store)
}
