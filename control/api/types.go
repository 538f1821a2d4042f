package api

import (
	"time"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
)

// Status is one screen about everything. Schema "leeward.status.v1".
type Status struct {
	Schema          string         `json:"schema"`
	Time            time.Time      `json:"time"`
	Version         string         `json:"version"`
	Health          health.Level   `json:"health"`
	Ready           bool           `json:"ready"` // false while state is being rebuilt after a start
	Machines        int            `json:"machines"`
	ByHealth        map[string]int `json:"by_health"`
	Points          int            `json:"points"`
	PendingMarkers  int            `json:"pending_markers"` // cut, not yet wholly in the vault
	BacklogBytes    uint64         `json:"backlog_bytes"`   // in CHANGES, not yet in the vault
	BacklogMessages uint64         `json:"backlog_messages"`
	WaitingBytes    uint64         `json:"waiting_bytes"` // on the machines, not yet sent, as their agents say
	WorstRPO        *float64       `json:"worst_rpo_seconds"`
	Issues          []health.Issue `json:"issues"` // the worst first, at most 100
	Vault           VaultInfo      `json:"vault"`
	JobsRunning     int            `json:"jobs_running"`
	JobsWaiting     int            `json:"jobs_waiting_for_cleanup"`
}

// Machine is what is known of a protected machine. Schema "leeward.machine.v1".
type Machine struct {
	Schema         string         `json:"schema,omitempty"`
	Machine        string         `json:"machine"`
	Host           string         `json:"host,omitempty"`
	OS             string         `json:"os,omitempty"`
	Kernel         string         `json:"kernel,omitempty"`
	CPUs           uint32         `json:"cpus,omitempty"`
	MemoryBytes    uint64         `json:"memory_bytes,omitempty"`
	Firmware       string         `json:"firmware,omitempty"`
	NICs           []string       `json:"nics,omitempty"`
	Health         health.Level   `json:"health"`
	Issues         []health.Issue `json:"issues"`
	RPO            *float64       `json:"rpo_seconds"` // now minus the cut of the newest listed point; null without one
	Points         int            `json:"points"`
	LatestPoint    *PointRef      `json:"latest_point"`
	PendingMarkers int            `json:"pending_markers"`
	LastTest       *TestRef       `json:"last_test"`
	// TestRecommended: it has points, and no test failover of it succeeded in 30 days.
	TestRecommended bool          `json:"test_recommended"`
	Life            *LifeRef      `json:"life,omitempty"` // if anything was ever done to it
	Disks           []Disk        `json:"disks"`
	Agent           *AgentNumbers `json:"agent,omitempty"`   // what its agent says; not there if it is silent
	Standby         []Standby     `json:"standby,omitempty"` // what is kept of its disks in Azure
}

// Standby is a copy of a disk in Azure that is kept near the newest point. The counters begin
// with the process of control.
type Standby struct {
	Disk          string    `json:"disk"`
	Point         string    `json:"point,omitempty"` // that it is like; "" if it was not there yet
	Time          time.Time `json:"time,omitzero"`   // when that was cut
	BehindSeconds float64   `json:"behind_seconds"`  // from that to the newest point
	LimitSeconds  float64   `json:"limit_seconds"`   // as the policy wants it
	SentBytes     int64     `json:"sent_bytes"`
	LookedBytes   int64     `json:"looked_bytes"` // of the copy, to compare it
	Error         string    `json:"error,omitempty"`
	Target        string    `json:"target,omitempty"`     // URL of the copy
	SizeBytes     int64     `json:"size_bytes,omitempty"` // of the disk; 0 while there is no copy
	LastBytes     *int64    `json:"last_bytes,omitempty"` // the last difference; not there if this control has not brought it on yet
	LastTime      time.Time `json:"last_time,omitzero"`   // when that was done
	Next          time.Time `json:"next,omitzero"`        // when it is brought on if there is a newer point, at the earliest
	Going         string    `json:"going,omitempty"`      // point that it is being brought to now
	Held          string    `json:"held_by,omitempty"`    // run that a machine is made of it in: it is left alone
}

// AgentNumbers is what an agent says of itself. Counters begin with its process.
type AgentNumbers struct {
	Version       string    `json:"version,omitempty"`
	Since         time.Time `json:"since"`
	RateBytes     int64     `json:"rate_bytes,omitempty"` // a second that it may send now; 0: no bound
	WaitedSeconds float64   `json:"waited_seconds"`       // for that rate
	SentBytes     uint64    `json:"sent_bytes"`
	WaitingBytes  uint64    `json:"waiting_bytes"`     // changed and not sent, over all disks
	Trouble       string    `json:"trouble,omitempty"` // why the bus takes nothing of it now
	HeapBytes     uint64    `json:"heap_bytes,omitempty"`
	Goroutines    int       `json:"goroutines,omitempty"`
}

// PointRef names a recovery point.
type PointRef struct {
	ID          string    `json:"id"`
	Time        time.Time `json:"time"`
	Consistency string    `json:"consistency"`
}

// TestRef is the newest test failover of a machine.
type TestRef struct {
	Job   string         `json:"job"`
	State failover.State `json:"state"`
	Alive bool           `json:"alive"`
	Time  time.Time      `json:"time"`
}

// Disk is what is known of a protected disk.
type Disk struct {
	Disk            string    `json:"disk"`
	SizeBytes       uint64    `json:"size_bytes"`
	Epoch           uint64    `json:"epoch"`  // what the vault has confirmed
	Number          uint64    `json:"number"` // within the epoch
	LastReceipt     time.Time `json:"last_receipt,omitzero"`
	Capture         string    `json:"capture,omitempty"`   // driver
	Guarantee       string    `json:"guarantee,omitempty"` // what the driver promises
	Path            string    `json:"path,omitempty"`      // on the machine
	Note            string    `json:"note,omitempty"`      // what the latest point does not guarantee
	Held            bool      `json:"agent_online"`        // an agent holds the lease
	Heartbeat       time.Time `json:"last_heartbeat,omitzero"`
	Instance        string    `json:"agent_instance,omitempty"`
	BacklogMessages *uint64   `json:"backlog_messages,omitempty"` // on the bus, not in the vault; not given in long lists
	// What the agent says of the disk; not there if it is silent.
	WaitingBytes     *uint64 `json:"waiting_bytes,omitempty"`     // changed and not sent, or still to be compared
	UnconfirmedBytes *uint64 `json:"unconfirmed_bytes,omitempty"` // sent, and not yet in the vault
	Resend           string  `json:"resend_reason,omitempty"`     // why the vault asked for links again, until it got them
}

// Point is a recovery point. Schema "leeward.point.v1".
type Point struct {
	Schema        string         `json:"schema,omitempty"`
	ID            string         `json:"id"`
	Group         string         `json:"group"`
	Time          time.Time      `json:"time"` // of the cut
	Consistency   string         `json:"consistency"`
	FrozenSeconds float64        `json:"frozen_seconds"`
	SkewSeconds   float64        `json:"skew_seconds,omitempty"` // of a group: from the first machine that stood still to the last
	Listed        time.Time      `json:"listed"`
	Pinned        bool           `json:"pinned,omitempty"` // kept whatever the retention says; not given in lists from a vault
	Name          string         `json:"name,omitempty"`   // that somebody gave it
	Machines      []PointMachine `json:"machines"`
}

// PointMachine is one machine of a recovery point.
type PointMachine struct {
	Machine     string      `json:"machine"`
	Host        string      `json:"host,omitempty"`
	CPUs        uint32      `json:"cpus,omitempty"`
	MemoryBytes uint64      `json:"memory_bytes,omitempty"`
	Firmware    string      `json:"firmware,omitempty"`
	OS          string      `json:"os,omitempty"`
	Kernel      string      `json:"kernel,omitempty"`
	NICs        []string    `json:"nics,omitempty"`
	Frozen      float64     `json:"frozen_seconds,omitempty"` // of a group's machine
	Disks       []PointDisk `json:"disks"`
}

// PointDisk is one disk of a recovery point.
type PointDisk struct {
	Disk      string `json:"disk"`
	Epoch     uint64 `json:"epoch"`
	Number    uint64 `json:"number"`
	SizeBytes uint64 `json:"size_bytes"`
	Digest    string `json:"digest"` // 64 hexadecimal digits
	Frozen    bool   `json:"frozen"`
	Note      string `json:"note,omitempty"` // what is not guaranteed
}

// Event is something that happened.
type Event struct {
	Time     time.Time `json:"time"`
	Machine  string    `json:"machine"`
	Disk     string    `json:"disk,omitempty"`
	Kind     string    `json:"kind"`
	Severity string    `json:"severity"`
	What     string    `json:"what"`
	Try      string    `json:"try,omitempty"`
}

// VaultInfo says where the data is. Schema "leeward.vault.v1".
type VaultInfo struct {
	Schema string   `json:"schema,omitempty"`
	ID     string   `json:"id"`
	URL    string   `json:"url"`
	Disks  []string `json:"disks,omitempty"` // "machine/disk"
	Points int      `json:"points"`
}

// Stream is one JetStream stream.
type Stream struct {
	Name     string    `json:"name"`
	Messages uint64    `json:"messages"`
	Bytes    uint64    `json:"bytes"`
	MaxBytes int64     `json:"max_bytes"` // -1: no limit
	First    time.Time `json:"first,omitzero"`
	Last     time.Time `json:"last,omitzero"`
	About    string    `json:"about,omitempty"`
}

// Query chooses what a list shows. Zero fields choose everything.
type Query struct {
	Machine     string    `json:"machine,omitempty"`
	Consistency string    `json:"consistency,omitempty"` // points
	Kind        string    `json:"kind,omitempty"`        // events
	Since       time.Time `json:"since,omitzero"`
	Limit       int       `json:"limit,omitempty"`  // the newest so many
	Cursor      string    `json:"cursor,omitempty"` // of the page before
}

// Page is one part of a list. Schema "leeward.<noun>s.v1".
type Page[T any] struct {
	Schema string `json:"schema"`
	Items  []T    `json:"items"`
	Next   string `json:"next,omitempty"`
}

// NoteRequest keeps what people noted of a job.
type NoteRequest struct {
	ID    string `json:"id"`
	Notes string `json:"notes"`
}

// Ref names one thing.
type Ref struct {
	ID      string `json:"id,omitempty"`
	Machine string `json:"machine,omitempty"`
	After   uint64 `json:"after,omitempty"` // revision of a job that is known already
	Wait    bool   `json:"wait,omitempty"`  // answer when the revision is greater than After
}
