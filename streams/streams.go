package streams

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// Partitions is the number of partitions that disks are spread over. It is part
// of the public contract: changing it moves disks between subjects.
const Partitions = 64

// Stream names.
const (
	Changes  = "CHANGES"  // every disk's chain of changes, a work queue
	Markers  = "MARKERS"  // consistency markers, one subject a group
	Receipts = "RECEIPTS" // what the vault holds, one subject a disk
	Events   = "EVENTS"   // what an operator wants to read afterwards
)

// Leases is the key-value bucket that says which agent instance protects a disk.
const Leases = "LEEWARD_LEASES"

// Roles is the key-value bucket that says which of several processes does what only
// one may do at a time; a key is a role.
const Roles = "LEEWARD_ROLES"

// Shares is the key-value bucket that says which process server owns which
// partition, in the key SharesKey.
const (
	Shares    = "LEEWARD_SHARES"
	SharesKey = "partitions"
)

// BeatSubject is where process servers tell each other that they are alive. It is
// in no stream.
const BeatSubject = root + ".process.beat"

const root = "leeward"

// Partition maps a disk to its partition: FNV-1a (32 bit) of "machine/disk",
// modulo Partitions. The result is in [0, Partitions).
func Partition(machine, disk string) int {
	h := fnv.New32a()
	h.Write([]byte(machine + "/" + disk))
	return int(h.Sum32() % Partitions)
}

// ChangesSubject is where the agent publishes a disk's changes.
func ChangesSubject(machine, disk string) string { return Pool("").ChangesSubject(machine, disk) }

// PartitionSubject matches the changes of every disk of one partition.
func PartitionSubject(p int) string { return Pool("").PartitionSubject(p) }

// SumsSubject is where the process server that owns a disk answers requests for
// the block sums of what the vault holds (see wire.SumsRequest).
func SumsSubject(machine, disk string) string { return Pool("").SumsSubject(machine, disk) }

// SumsPartition matches the sums requests of every disk of one partition.
func SumsPartition(p int) string { return Pool("").SumsPartition(p) }

// MarkersSubject is the shared subject of a group of machines.
func MarkersSubject(group string) string { return root + ".markers." + group }

// AllMarkers and AllReceipts match the markers of all groups and the receipts of all
// disks.
const (
	AllMarkers  = root + ".markers.*"
	AllReceipts = root + ".receipts.*.*"
)

// BarrierOrder is where the coordinator of a barrier tells a machine what to do
// (see package producers/markers). Orders and answers are
// plain NATS: what is said means nothing later.
func BarrierOrder(machine string) string { return root + ".barrier." + machine + ".order" }

// BarrierReport is where a machine of a barrier answers.
func BarrierReport(machine string) string { return root + ".barrier." + machine + ".report" }

// BarrierReports matches the answers of all machines.
const BarrierReports = root + ".barrier.*.report"

// PolicySet is where control tells an agent the policy of its machine.
func PolicySet(machine string) string { return root + ".policy." + machine + ".set" }

// PolicyAsk is where an agent asks for the policy of its machine.
func PolicyAsk(machine string) string { return root + ".policy." + machine + ".ask" }

// PolicyAsks matches the questions of all agents.
const PolicyAsks = root + ".policy.*.ask"

// RescueOrder is where the master target tells a rescue what to read and write (see
// package streams/rescue). Orders and reports are plain NATS: whoever hears nothing asks
// again.
func RescueOrder(name string) string { return root + ".rescue." + name + ".order" }

// RescueReport is where a rescue answers.
func RescueReport(name string) string { return root + ".rescue." + name + ".report" }

// ReceiptsSubject is where the process server says what the vault holds of a disk.
func ReceiptsSubject(machine, disk string) string {
	return root + ".receipts." + machine + "." + disk
}

// EventsSubject carries one kind of event of one machine.
func EventsSubject(machine, kind string) string { return root + ".events." + machine + "." + kind }

// TapPrefix is where headers-only copies of CHANGES appear for taps.
const TapPrefix = root + ".tap.changes."

// TapSubject is where the copy of what is published to subject appears.
func TapSubject(subject string) string { return root + ".tap" + strings.TrimPrefix(subject, root) }

// ParseChanges takes a changes subject apart. It refuses a partition that does
// not belong to the disk, so that a disk cannot appear in two partitions, and
// names that ValidName refuses.
func ParseChanges(subject string) (machine, disk string, err error) {
	t := strings.Split(subject, ".")
	if len(t) != 5 || t[0] != root || t[1] != "changes" {
		return "", "", fmt.Errorf("subject %q is not %s.changes.<partition>.<machine>.<disk>", subject, root)
	}
	for i, kind := range []string{"machine", "disk"} {
		if err := ValidName(kind, t[3+i]); err != nil {
			return "", "", fmt.Errorf("subject %q: %w", subject, err)
		}
	}
	pool, partition := parseToken(t[2])
	if err := pool.Validate(); err != nil {
		return "", "", fmt.Errorf("subject %q: %w", subject, err)
	}
	if want := pool.ChangesSubject(t[3], t[4]); subject != want {
		return "", "", fmt.Errorf("subject %q names partition %s, disk %s/%s belongs to %02d", subject, partition, t[3], t[4], Partition(t[3], t[4]))
	}
	return t[3], t[4], nil
}

// MaxName is the longest name of a machine, disk or group in bytes.
const MaxName = 64

// ValidName reports why a machine, disk or group name cannot be a subject token
// and a path element: 1 to MaxName letters, digits, '-' or '_', not starting
// with '-' or '_'.
func ValidName(kind, name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%s name %q has %d characters, want 1 to %d", kind, name, len(name), MaxName)
	}
	for i, r := range name {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || i > 0 && (r == '-' || r == '_')
		if !ok {
			return fmt.Errorf("%s name %q has %q at position %d: use letters, digits, '-' and '_', starting with a letter or digit", kind, name, r, i+1)
		}
	}
	return nil
}
