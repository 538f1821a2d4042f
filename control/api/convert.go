package api

import (
	"encoding/hex"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams/wire"
)

// PointOf describes a recovery point of the vault.
func PointOf(p *vault.Point) Point {
	out := Point{
		ID: p.ID, Group: p.Group, Time: p.Time.UTC(), Consistency: p.Consistency,
		FrozenSeconds: p.Frozen.Seconds(), SkewSeconds: p.Skew.Seconds(), Listed: p.Listed.UTC(),
	}
	for _, m := range p.Machines {
		pm := PointMachine{
			Machine: m.Machine, Host: m.Host, CPUs: m.CPUs, MemoryBytes: m.Memory,
			Firmware: m.Firmware, OS: m.OS, Kernel: m.Kernel, NICs: m.NICs, Frozen: m.Frozen.Seconds(),
		}
		for _, d := range m.Disks {
			pm.Disks = append(pm.Disks, PointDisk{
				Disk: d.Disk, Epoch: d.At.Epoch, Number: d.At.Number, SizeBytes: d.Size,
				Digest: hex.EncodeToString(d.Digest[:]), Frozen: d.Frozen, Note: d.Note,
			})
		}
		out.Machines = append(out.Machines, pm)
	}
	return out
}

// AgentOf describes what an agent says of itself; WaitingBytes is left to who knows
// the disks.
func AgentOf(n *markers.Needs) *AgentNumbers {
	return &AgentNumbers{
		Version: n.Version, Since: time.Unix(0, n.Since).UTC(), RateBytes: n.Rate, WaitedSeconds: n.Waited.Seconds(),
		SentBytes: n.SentBytes, Trouble: n.Trouble, HeapBytes: n.Heap, Goroutines: n.Goroutines,
	}
}

// EventOf describes an event.
func EventOf(e *wire.Event) Event {
	return Event{
		Time: time.Unix(0, e.Time).UTC(), Machine: e.Machine, Disk: e.Disk, Kind: e.Kind,
		Severity: string(e.Severity), What: e.What, Try: e.Try,
	}
}
