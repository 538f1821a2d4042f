package api

import (
	"context"
	"time"

	"github.com/leeward-dr/leeward/control/drill"
)

// Drill is a drill and its times. Schema of lists "leeward.drills.v1".
type Drill struct {
	Drill   drill.Drill `json:"drill"`
	State   drill.State `json:"state"`
	Next    time.Time   `json:"next,omitzero"` // zero: paused
	Changed time.Time   `json:"changed"`
	By      string      `json:"by,omitempty"`
}

// ReportRef is a report in a line. Schema of lists "leeward.drill-reports.v1".
type ReportRef struct {
	ID       string    `json:"id"`
	Drill    string    `json:"drill"`
	Plan     string    `json:"plan"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`
	Passed   bool      `json:"passed"`
	Why      string    `json:"why,omitempty"`
	Machines int       `json:"machines"`
	Alive    int       `json:"alive"`
}

// Driller is the part of a Backend that knows of drills.
type Driller interface {
	Drills(ctx context.Context, q Query) ([]Drill, error)
	SetDrill(ctx context.Context, d drill.Drill) (*Drill, error)
	DeleteDrill(ctx context.Context, name string) error
	RunDrill(ctx context.Context, name string) (*Drill, error)
	Reports(ctx context.Context, q Query) ([]ReportRef, error)
	Report(ctx context.Context, id string) (*drill.Signed, error)
}

func (s *Server) drills() []endpoint {
	b := s.backend
	return []endpoint{
		list("drill", "ls", "leeward.drills.v1", b.Drills),
		ask("drill", "set", "", b.SetDrill),
		gone("drill", "delete", b.DeleteDrill),
		named("drill", "run", "", b.RunDrill),
		list("report", "ls", "leeward.drill-reports.v1", b.Reports),
		named("report", "show", drill.SignedSchema, b.Report),
	}
}

// Drills lists the drills.
func (c *Client) Drills(ctx context.Context) ([]Drill, error) {
	return all[Drill](ctx, c, "drill.ls", Query{})
}

// SetDrill makes a drill or changes it.
func (c *Client) SetDrill(ctx context.Context, d drill.Drill) (*Drill, error) {
	return call[Drill](ctx, c, "drill.set", d)
}

// DeleteDrill removes a drill; its reports stay.
func (c *Client) DeleteDrill(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, "drill.delete", Ref{ID: name})
	return err
}

// RunDrill begins a drill now. One that is on its way is returned as it is.
func (c *Client) RunDrill(ctx context.Context, name string) (*Drill, error) {
	return call[Drill](ctx, c, "drill.run", Ref{ID: name})
}

// Reports lists the reports of drills, the oldest first.
func (c *Client) Reports(ctx context.Context) ([]ReportRef, error) {
	return all[ReportRef](ctx, c, "report.ls", Query{})
}

// Report asks for a signed report.
func (c *Client) Report(ctx context.Context, id string) (*drill.Signed, error) {
	return call[drill.Signed](ctx, c, "report.show", Ref{ID: id})
}
