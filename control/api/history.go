package api

import (
	"context"
	"encoding/json"
	"time"
)

// History is how a machine fared lately. Schema "leeward.history.v1". Samples of the last
// hour are seconds apart, older ones minutes; control keeps them in memory, so they begin
// when it did.
type History struct {
	Schema  string   `json:"schema"`
	Machine string   `json:"machine"`
	Samples []Sample `json:"samples"` // the oldest first
}

// Sample is one look at a machine. Numbers that were not known are null.
type Sample struct {
	Time    time.Time `json:"time"`
	RPO     *float64  `json:"rpo_seconds"`
	Churn   *float64  `json:"churn_bytes_per_second"` // that its agent gave to the bus
	Backlog *float64  `json:"backlog_bytes"`          // changed and not yet in the vault
}

// ProcessServer is what a process server says of itself. Schema of lists
// "leeward.processes.v1".
type ProcessServer struct {
	ID          string    `json:"id"` // of its micro service
	Version     string    `json:"version"`
	Started     time.Time `json:"started"`
	Vault       string    `json:"vault,omitempty"`
	Links       uint64    `json:"links"`
	BytesIn     uint64    `json:"bytes_in"`
	BytesStored uint64    `json:"bytes_stored"`
	Commits     uint64    `json:"commits"`
	Refused     uint64    `json:"refused"`
	MemoryBytes int64     `json:"memory_bytes"`
	Behind      uint64    `json:"behind"`
	Disks       int       `json:"disks"`
	LagSeconds  float64   `json:"lag_seconds"`     // of the disk that waits longest
	Store       string    `json:"store,omitempty"` // why the vault's store fails
}

// Historian keeps how machines fared and knows the process servers. A Backend that
// implements it answers history.show and process.ls.
type Historian interface {
	History(ctx context.Context, machine string) (*History, error)
	Processes(ctx context.Context) ([]ProcessServer, error)
}

func (s *Server) historian() (Historian, error) {
	h, ok := s.backend.(Historian)
	if !ok {
		return nil, Errorf(CodeRefused, "", "this control keeps no history")
	}
	return h, nil
}

func (s *Server) histories() []endpoint {
	return []endpoint{
		ask("history", "show", "leeward.history.v1", func(ctx context.Context, r Ref) (*History, error) {
			h, err := s.historian()
			if err != nil {
				return nil, err
			}
			return h.History(ctx, r.Machine)
		}),
		list("process", "ls", "leeward.processes.v1", func(ctx context.Context, _ Query) ([]ProcessServer, error) {
			h, err := s.historian()
			if err != nil {
				return nil, err
			}
			return h.Processes(ctx)
		}),
	}
}

// History asks how a machine fared lately.
func (c *Client) History(ctx context.Context, machine string) (*History, error) {
	return call[History](ctx, c, "history.show", Ref{Machine: machine})
}

// Processes lists the process servers.
func (c *Client) Processes(ctx context.Context) ([]ProcessServer, error) {
	return all[ProcessServer](ctx, c, "process.ls", Query{})
}

// ProcessOf describes a process server by what it answers to `nats micro stats`.
func ProcessOf(body []byte) (*ProcessServer, error) {
	var m struct {
		ID        string            `json:"id"`
		Version   string            `json:"version"`
		Started   time.Time         `json:"started"`
		Metadata  map[string]string `json:"metadata"`
		Endpoints []struct {
			Data struct {
				Links       uint64 `json:"links"`
				BytesIn     uint64 `json:"bytes_in"`
				BytesStored uint64 `json:"bytes_stored"`
				Commits     uint64 `json:"commits"`
				Refused     uint64 `json:"refused"`
				MemoryBytes int64  `json:"memory_bytes"`
				Behind      uint64 `json:"behind"`
				Store       string `json:"store"`
				Disks       map[string]struct {
					Lag time.Duration `json:"lag"`
				} `json:"disks"`
			} `json:"data"`
		} `json:"endpoints"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	p := &ProcessServer{ID: m.ID, Version: m.Version, Started: m.Started, Vault: m.Metadata["vault"]}
	if len(m.Endpoints) > 0 {
		d := m.Endpoints[0].Data
		p.Links, p.BytesIn, p.BytesStored, p.Commits, p.Refused = d.Links, d.BytesIn, d.BytesStored, d.Commits, d.Refused
		p.MemoryBytes, p.Behind, p.Store, p.Disks = d.MemoryBytes, d.Behind, d.Store, len(d.Disks)
		for _, k := range d.Disks {
			p.LagSeconds = max(p.LagSeconds, k.Lag.Seconds())
		}
	}
	return p, nil
}
