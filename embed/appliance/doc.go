// Package appliance is everything in one process from one directory: the embedded
// NATS server, a process server, control and its API. It is what `leeward up` runs.
//
//	DIR/leeward.yaml     settings, optional
//	DIR/jetstream/       streams and their state
//	DIR/contexts/        connection files for agents and operators
//	DIR/keys/vault.key   the vault's key, made at the first start
//	DIR/vault/           the vault, unless it is elsewhere
//	DIR/vault.json       which vault this appliance fills
//	DIR/jobs/            failover jobs
//
// It may be killed at any moment: everything it needs to go on is in the streams
// and the vault. It owns the order of start and stop and the settings; what the
// parts do is theirs.
package appliance
