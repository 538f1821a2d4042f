package trust

import (
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Role is what a user of the bus is for.
type Role string

// The roles. See docs/ops/security.md for what each may do.
const (
	Admin    Role = "admin"    // people who own it: everything
	Operator Role = "operator" // people who fail over, and run what admins have written
	Control  Role = "control"  // the deciding service: everything
	Process  Role = "process"  // a process server
	Machine  Role = "machine"  // the agent of one enrolled machine
	Agent    Role = "agent"    // an agent on the appliance itself, of any machine
	Viewer   Role = "viewer"   // people who look
	Tester   Role = "tester"   // people who look and run test failovers
	Tap      Role = "tap"      // programs that listen
)

// Roles lists all roles.
func Roles() []Role {
	return []Role{Admin, Operator, Control, Process, Machine, Agent, Viewer, Tester, Tap}
}

// Subjects of one direction. Empty Allow allows everything that Deny does not name.
type Subjects struct{ Allow, Deny []string }

// Rights of a role.
type Rights struct {
	Publish   Subjects
	Subscribe Subjects
}

// What the server puts the user's own into: its public key, the name it was
// enrolled with, and the groups that it joins.
const (
	ownKey   = "{{subject()}}"
	ownName  = "{{name()}}"
	ownGroup = "{{tag(" + groupTag + ")}}"
	groupTag = "group"
)

// whoami tells a user its own name and permissions; `nats account info` asks it.
const whoami = "$SYS.REQ.USER.INFO"

// tapped are the streams that listeners may read. They make no consumers: one could
// be told to deliver anywhere, or take the messages of another.
var tapped = [...]string{streams.Markers, streams.Receipts, streams.Events}

// Permit returns what a role may do.
func Permit(r Role) Rights {
	switch r {
	case Admin, Control:
		return Rights{} // everything in the account
	case Process:
		return process()
	case Machine:
		return agent(ownName, []string{ownName, ownGroup})
	case Agent:
		return agent("*", []string{"*"})
	case Viewer:
		return viewer()
	case Tester:
		return asks(tests)
	case Operator:
		return asks(tests, operates)
	case Tap:
		return tap()
	}
	// A role that is not known may say nothing and hear nothing.
	return Rights{Publish: Subjects{Deny: []string{">"}}, Subscribe: Subjects{Deny: []string{">"}}}
}

var inbox = bus.InboxPrefix(ownKey) + ".>"

// answers are what requests ask to be answered on. Not "whatever the request
// says": it might say a subject where only the one who answers may publish. _R_ is
// for requests that come from another account.
var answers = []string{"_INBOX.>", "_R_.>"}

// Services answer `nats micro ls`, info and stats.
func service(name string) []string {
	return []string{"$SRV.*", "$SRV.*." + name, "$SRV.*." + name + ".*"}
}

// agent may speak for the machine of this name and hear what is meant for it.
// groups are those whose markers it may publish.
func agent(name string, groups []string) Rights {
	lease := "$KV." + streams.Leases + "." + name + ".>"
	p := Rights{}
	p.Publish.Allow = []string{
		"leeward.changes.*." + name + ".>", "leeward.events." + name + ".>", "leeward.sums.*." + name + ".>", lease,
		"leeward.barrier." + name + ".report", "leeward.policy." + name + ".ask", "leeward.rescue." + name + ".report",
		"$JS.API.INFO", whoami,
	}
	p.Subscribe.Allow = []string{
		inbox, "leeward.receipts." + name + ".>", "leeward.commands." + name + ".>", "leeward.barrier." + name + ".order", "leeward.policy." + name + ".set",
		"leeward.rescue." + name + ".order",
	}
	// No consumers: one could be told to deliver anywhere. What an agent reads, it
	// reads by subject; other forms of the request would read every subject.
	read := func(stream, subject string) {
		p.Publish.Allow = append(p.Publish.Allow, "$JS.API.STREAM.INFO."+stream, "$JS.API.DIRECT.GET."+stream+"."+subject)
	}
	read(streams.Changes, "leeward.changes.*."+name+".>")
	p.Publish.Allow = append(p.Publish.Allow, "$JS.API.DIRECT.GET.*.leeward.changes.*."+name+".>") // of pools, too
	read(streams.Receipts, "leeward.receipts."+name+".>")
	read("KV_"+streams.Leases, lease)
	for _, g := range groups {
		p.Publish.Allow = append(p.Publish.Allow, "leeward.markers."+g)
		p.Subscribe.Allow = append(p.Subscribe.Allow, "leeward.markers."+g)
		read(streams.Markers, "leeward.markers."+g)
	}
	return p
}

// process takes changes and says what the vault holds. It makes no stream, and
// deletes none.
func process() Rights {
	p := Rights{}
	p.Publish.Allow = []string{
		"leeward.receipts.>", "leeward.events.>", "leeward.process.>", streams.TapPrefix + ">", answers[0], answers[1], "$JS.API.INFO", whoami,
		"$JS.API.STREAM.INFO.*", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.*",
		"$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.CREATE.>",
		"$JS.API.CONSUMER.MSG.NEXT.>", "$JS.API.CONSUMER.UNPIN.>", "$JS.API.CONSUMER.RESET.*.*", "$JS.ACK.>", "$KV.>",
		// It follows the fences, and ends what it followed them by.
		"$JS.API.CONSUMER.DELETE.KV_" + streams.Fences + ".*",
		// The table of who owns what is theirs; they make it again when it is gone.
		"$JS.API.STREAM.CREATE.KV_" + streams.Shares, "$JS.API.STREAM.UPDATE.KV_" + streams.Shares,
	}
	// Whose tokens are good, who an agent is, who is fenced, and who signs in, is control's
	// alone to write; of people's passwords it does not even see the hashes.
	p.Publish.Deny = []string{"$KV." + streams.Agents + ".>", "$KV." + streams.Tokens + ".>", "$KV." + streams.Fences + ".>"}
	for _, b := range []string{streams.Logins, streams.Users} {
		p.Publish.Deny = append(p.Publish.Deny, "$KV."+b+".>", "$JS.API.DIRECT.GET.KV_"+b, "$JS.API.DIRECT.GET.KV_"+b+".>",
			"$JS.API.STREAM.MSG.GET.KV_"+b, "$JS.API.CONSUMER.CREATE.KV_"+b, "$JS.API.CONSUMER.CREATE.KV_"+b+".>")
	}
	p.Subscribe.Allow = append([]string{inbox, "leeward.sums.>", "leeward.process.>"}, service("leeward-process")...)
	return p
}

// What may be asked of control beyond looking. It is a list of what is allowed: what is
// new is the admin's until somebody says otherwise here.
//
// An operator may say no command, no file and no device of control's host: whoever does is
// its admin in fact. So scripts (plans), commands and paths are asked for on subjects of
// their own, which end in .admin; tokens, policies and where notifications go are the
// admin's too, as is whatever ends a machine's protection.
var (
	tests    = []string{"failover.test", "failover.cleanup", "failover.validate", "job.note", "plan.forecast", "session.tester"}
	operates = []string{
		"failover.start", "failover.change-point", "failover.commit", "failover.cancel", "failover.reprotect", "failover.failback", "failover.complete",
		"plan.run", "run.answer", "run.cancel", "drill.run", "drill.set", "drill.delete", "point.pin", "point.unpin",
		"group.change", "group.delete", "notify.test", "session.operator",
	}
)

// asks is a viewer who may ask for more.
func asks(more ...[]string) Rights {
	p := viewer()
	for _, a := range slices.Concat(more...) {
		p.Publish.Allow = append(p.Publish.Allow, "leeward.api."+a)
	}
	return p
}

func viewer() Rights {
	return Rights{
		Publish: Subjects{Allow: []string{
			"leeward.api.*.ls", "leeward.api.*.show", "leeward.api.*.info", "leeward.api.*.trace", "leeward.api.*.versions", "leeward.api.session.viewer",
			"$SRV.PING.>", "$SRV.PING", "$SRV.INFO.>", "$SRV.INFO", "$SRV.STATS.>", "$SRV.STATS", whoami, "$JS.API.INFO",
		}},
		Subscribe: Subjects{Allow: []string{inbox}},
	}
}

func tap() Rights {
	p := Rights{
		Publish: Subjects{Allow: []string{
			whoami, "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*",
			"$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*",
			"$JS.API.DIRECT.GET.KV_" + streams.Leases + ".>",
		}},
		// No queue groups: a tap must not stand in line with those who do the work. No
		// requests and answers of the API: they are not for listeners.
		Subscribe: Subjects{Allow: []string{inbox, "leeward.>"}, Deny: []string{"leeward.changes.>", "leeward.sums.>", "leeward.api.>", "leeward.commands.>", "leeward.barrier.>", "leeward.policy.>", "leeward.rescue.>", "leeward.audit.>", "> >"}},
	}
	for _, s := range tapped {
		p.Publish.Allow = append(p.Publish.Allow, "$JS.API.DIRECT.GET."+s, "$JS.API.DIRECT.GET."+s+".>", "$JS.API.STREAM.MSG.GET."+s)
	}
	return p
}

// MayPublish reports whether a role may publish to a subject without wildcards, as Permit
// says. Deny goes before allow.
func MayPublish(r Role, subject string) bool {
	p := Permit(r).Publish
	in := func(all []string) bool {
		return slices.ContainsFunc(all, func(pattern string) bool { return covers(pattern, subject) })
	}
	return !in(p.Deny) && (len(p.Allow) == 0 || in(p.Allow))
}

// covers reports whether a pattern of subjects has subject in it.
func covers(pattern, subject string) bool {
	want, got := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, w := range want {
		switch {
		case w == ">":
			return len(got) > i
		case i >= len(got) || w != "*" && w != got[i]:
			return false
		}
	}
	return len(want) == len(got)
}
