// Package embed runs the NATS server of an appliance inside this process: one
// directory holds its streams, its keys and ready-made contexts.
//
//	DIR/lock                    held by the process that runs; its pid is inside
//	DIR/jetstream/              the streams
//	DIR/keys/{operator,agent,tap}.nk      seeds of the users' NKeys, made at first start, 0600
//	DIR/contexts/{operator,agent,tap}.json  contexts of the nats CLI, and of bus.Options.Context
//
// The nats CLI takes a context by path when the path ends in .json, as a flag or
// from the environment:
//
//	nats --context DIR/contexts/tap.json sub 'leeward.>' --headers-only
//	NATS_CONTEXT=DIR/contexts/operator.json nats stream ls
//
// # Who may do what
//
//	operator  everything: process servers, control, people who repair
//	agent     publish changes, markers, events; ask for sums; keep its leases; read
//	          receipts and markers (subscribe and direct get, no consumers)
//	tap       look: subscribe to leeward.> without payloads of changes; read MARKERS,
//	          RECEIPTS and EVENTS through pull consumers or direct get; publish nothing
//
// Each user has an inbox of its own (_INBOX.<its public key>), so none hears the
// answers to another. All agents share one key here; keys that bind an agent to
// its machine come with enrolment. Until then one hole of the bus itself is open:
// the server answers a request wherever its reply subject says, even where the
// user could not publish. So a holder of the agent or tap key can have a stored
// message, or an answer of the server, copied to any subject of the account.
//
// # TLS
//
// A server that other machines can reach speaks TLS only. It takes the certificate
// it is given and reads the files again when they change; without one it makes an
// authority of its own at the first start, and a certificate that it renews:
//
//	DIR/tls/ca.pem, ca.key            the authority, ten years
//	DIR/tls/server.pem, server.key    the certificate, ninety days
//
// The store is synced every second, not at every message: what a power failure
// takes from the tail, the agents send again (package wire, the chain).
//
// # Clusters
//
// RunNode runs one node of a cluster from a configuration file of the NATS server, as
// `leeward nats run` does; deploy/nats has the file. WriteCluster makes the keys,
// contexts and accounts that all nodes share.
//
// This package creates no stream (streams.Ensure does) and knows nothing of
// messages.
package embed
