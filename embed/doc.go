// Package embed runs the NATS server of an appliance inside this process: one
// directory holds its streams, its keys and ready-made contexts.
//
//	DIR/lock                    held by the process that runs; its pid is inside
//	DIR/jetstream/              the streams
//	DIR/trust/                  keys of operator, accounts and users, 0700 (package trust)
//	DIR/contexts/ROLE.json      contexts of the nats CLI, and of bus.Options.Context
//
// The nats CLI takes a context by path when the path ends in .json, as a flag or
// from the environment:
//
//	nats --context DIR/contexts/tap.json sub 'leeward.>' --headers-only
//	NATS_CONTEXT=DIR/contexts/admin.json nats stream ls
//
// Who may do what is package trust's to say, and docs/ops/security.md's to show. All
// agents on the appliance itself may share the ready user "agent"; an agent on
// another machine enrols and gets a user of its own.
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
