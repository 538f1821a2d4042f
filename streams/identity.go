package streams

import "github.com/nats-io/nats.go"

// Buckets of enrolment. Only control writes them.
const (
	Tokens = "LEEWARD_TOKENS" // one-time tokens by their id, hashed
	Agents = "LEEWARD_AGENTS" // enrolled machines by their name
)

// Buckets of the console. Only control writes them.
const (
	Logins = "LEEWARD_LOGINS" // codes and sessions by their hashes
	Users  = "LEEWARD_USERS"  // who signs in with a password
)

// CommandsSubject is where control tells the agent of a machine to do something.
func CommandsSubject(machine, verb string) string { return root + ".commands." + machine + "." + verb }

// Copied reports whether a message is the server's answer to a direct get of a
// stored message. A server sends answers wherever a request says, even where the
// one who asked may not publish. So whoever takes messages from a subject for what
// their payload says must refuse copies: the one who had it sent there is unknown.
func Copied(h nats.Header) bool {
	return len(h[streamHeader]) > 0 || len(h[sequenceHeader]) > 0
}

const (
	streamHeader   = "Nats-Stream"
	sequenceHeader = "Nats-Sequence"
)
