// Command leeward-agent runs on a protected server and replicates its disks.
//
//	leeward-agent run --server nats://host:4222 --key-file agent.nk --machine web1 --disk /dev/sda
//
// It opens no port. `leeward-agent guard` is started by the agent itself: it thaws
// filesystems if the agent dies while they are frozen.
package main
