package embed

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Role is who connects.
type Role string

// The roles, see the package comment.
const (
	Operator Role = "operator"
	Agent    Role = "agent"
	Tap      Role = "tap"
)

var roles = [...]Role{Operator, Agent, Tap}

// account holds everything of Leeward; it is also a directory below jetstream.
const account = "LEEWARD"

// reserved are the durable consumers of control on streams that taps may read: a
// tap that read from one would take control's messages away.
var reserved = [...]string{"control-markers"}

// whoami tells a user its own name and permissions; `nats account info` asks it.
const whoami = "$SYS.REQ.USER.INFO"

type subjects struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

type permissions struct {
	Publish   subjects `json:"publish"`
	Subscribe subjects `json:"subscribe"`
}

// permit returns what a role may do; nil is everything. key is the user's public
// key.
func permit(r Role, key string) *permissions {
	inbox := bus.InboxPrefix(key) + ".>"
	switch r {
	case Operator:
		return nil
	case Agent:
		lease := "KV_" + streams.Leases
		p := &permissions{
			Publish: subjects{Allow: []string{
				"leeward.changes.>", "leeward.markers.>", "leeward.events.>", "leeward.sums.>", "leeward.barrier.*.report", "leeward.policy.*.ask",
				"$KV." + streams.Leases + ".>", "$JS.API.INFO", whoami,
			}},
			Subscribe: subjects{Allow: []string{inbox, "leeward.receipts.>", "leeward.markers.>", "leeward.barrier.*.order", "leeward.policy.*.set"}},
		}
		// No consumers: a push consumer could be told to deliver anywhere.
		for _, s := range []string{streams.Changes, streams.Receipts, streams.Markers, lease} {
			p.Publish.Allow = append(p.Publish.Allow, "$JS.API.STREAM.INFO."+s, "$JS.API.DIRECT.GET."+s+".>", "$JS.API.STREAM.MSG.GET."+s)
		}
		return p
	}
	p := &permissions{
		Publish: subjects{Allow: []string{
			whoami, "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*",
			"$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*",
			"$JS.API.DIRECT.GET.KV_" + streams.Leases + ".>",
		}},
		// No queue groups: a tap must not stand in line with those who do the work.
		Subscribe: subjects{Allow: []string{inbox, "leeward.>"}, Deny: []string{"leeward.changes.>", "leeward.sums.>", "> >"}},
	}
	for _, s := range []string{streams.Markers, streams.Receipts, streams.Events} {
		p.Publish.Allow = append(p.Publish.Allow,
			"$JS.API.DIRECT.GET."+s, "$JS.API.DIRECT.GET."+s+".>", "$JS.API.STREAM.MSG.GET."+s,
			"$JS.API.CONSUMER.CREATE."+s+".>", "$JS.API.CONSUMER.MSG.NEXT."+s+".>", "$JS.ACK."+s+".>")
		for _, name := range reserved {
			p.Publish.Deny = append(p.Publish.Deny, "$JS.API.CONSUMER.*."+s+"."+name, "$JS.API.CONSUMER.*."+s+"."+name+".>",
				"$JS.API.CONSUMER.MSG.NEXT."+s+"."+name, "$JS.ACK."+s+"."+name+".>")
		}
	}
	return p
}

// accounts is the part of the server's configuration that says who may do what,
// in the server's own language, of which JSON is a part.
func accounts(keys map[Role]string) (string, error) {
	type user struct {
		NKey        string       `json:"nkey"`
		Permissions *permissions `json:"permissions,omitempty"`
	}
	var users []user
	for _, r := range roles {
		users = append(users, user{keys[r], permit(r, keys[r])})
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // the server's parser does not know \u003e
	err := e.Encode(map[string]any{
		"accounts": map[string]any{account: map[string]any{"jetstream": "enabled", "users": users}},
	})
	if err != nil {
		return "", fmt.Errorf("write the server's users: %w", err)
	}
	return b.String(), nil
}
