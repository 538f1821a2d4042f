package api

import (
	"context"
	"time"

	"github.com/leeward-dr/leeward/control/book"
	"github.com/leeward-dr/leeward/control/notify"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/policy"
)

// Manager is the part of a Backend that keeps what operators decide.
type Manager interface {
	Groups(ctx context.Context, q Query) ([]Group, error)
	Group(ctx context.Context, name string) (*Group, error)
	ChangeGroup(ctx context.Context, c GroupChange) (*Group, error)
	DeleteGroup(ctx context.Context, name string) error
	Policies(ctx context.Context, q Query) ([]Policy, error)
	Policy(ctx context.Context, name string) (*Policy, error)
	Apply(ctx context.Context, d policy.Document) ([]Policy, error)
	DeletePolicy(ctx context.Context, name string) error
	Pin(ctx context.Context, id, name string) (*Point, error)
	Unpin(ctx context.Context, id string) (*Point, error)
	Plans(ctx context.Context, q Query) ([]Plan, error)
	PlanVersions(ctx context.Context, name string) ([]Plan, error)
	ApplyPlan(ctx context.Context, p plan.Plan) (*Plan, error)
	DeletePlan(ctx context.Context, name string) error
	Forecast(ctx context.Context, r RunRequest) (*plan.DryRun, error)
	RunPlan(ctx context.Context, r RunRequest) (*plan.Run, error)
	Runs(ctx context.Context, q Query) ([]plan.Run, error)
	Run(ctx context.Context, id string) (*plan.Run, error)
	Answer(ctx context.Context, a Answer) (*plan.Run, error)
	CancelRun(ctx context.Context, id string) (*plan.Run, error)
	Notifications(ctx context.Context) (*notify.Config, error)
	SetNotifications(ctx context.Context, c notify.Config) error
	TestNotifications(ctx context.Context) (*notify.Report, error)
	Audit(ctx context.Context, r Record) error
	Records(ctx context.Context, q Query) ([]Record, error)
}

// Group is a number of machines that cut their points together. Schema
// "leeward.group.v1".
type Group struct {
	Schema        string    `json:"schema,omitempty"`
	Group         string    `json:"group"`
	Members       []string  `json:"members"`
	Policy        string    `json:"policy"`
	Version       uint64    `json:"version"`
	Changed       time.Time `json:"changed"`
	By            string    `json:"by,omitempty"`
	LatestPoint   *PointRef `json:"latest_point"`             // of all members
	LatestMembers int       `json:"latest_members,omitempty"` // how many that was
	Age           *float64  `json:"age_seconds"`              // of the latest point
	SkewSeconds   float64   `json:"skew_seconds"`             // of the latest point
	FrozenSeconds float64   `json:"frozen_seconds"`           // of the latest point, the longest
	LastTry       time.Time `json:"last_try,omitzero"`
	Failed        int       `json:"failed_in_a_row,omitempty"`
	Trouble       string    `json:"trouble,omitempty"` // of the last try
}

// GroupChange makes a group or changes who is in it.
type GroupChange struct {
	Group  string   `json:"group"`
	Create bool     `json:"create,omitempty"`
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

// Policy is a policy with its version. Schema of lists "leeward.policies.v1".
type Policy = book.Entry[policy.Policy]

// Plan is a plan with its version.
type Plan = book.Entry[plan.Plan]

// RunRequest asks for a run of a plan.
type RunRequest struct {
	ID    string `json:"request_id,omitempty"` // the same id twice is the same run
	Plan  string `json:"plan"`
	Mode  string `json:"mode"` // test, failover or failback
	Point string `json:"point,omitempty"`
	// Confirm repeats the plan's name, where machines are failed over or brought home.
	Confirm string `json:"confirm,omitempty"`
}

// Answer is what a person says to a run that asks.
type Answer struct {
	Run    string `json:"run"`
	Task   string `json:"task,omitempty"` // may be left out if only one asks
	Answer string `json:"answer"`         // yes or no; retry, continue or stop
}

// Record says who did what. They are kept in a stream that refuses to delete.
type Record struct {
	Time    time.Time `json:"time"`
	Actor   string    `json:"actor"`         // who the caller says it is
	Key     string    `json:"key,omitempty"` // of the caller's inbox, which the server holds it to
	Action  string    `json:"action"`        // like "policy-apply"
	Object  string    `json:"object,omitempty"`
	Request string    `json:"request,omitempty"` // as it came, at most some KiB
	Error   string    `json:"error,omitempty"`   // why it was refused or failed
}

// Actor is who asks.
type Actor struct {
	Name string // as the caller says
	Key  string
}

type actorKey struct{}

// WithActor returns a context that says who asks.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf returns who asks.
func ActorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}

func (s *Server) managed() []endpoint {
	b := s.backend
	return []endpoint{
		list("group", "ls", "leeward.groups.v1", b.Groups),
		named("group", "show", "leeward.group.v1", b.Group),
		ask("group", "change", "leeward.group.v1", b.ChangeGroup),
		gone("group", "delete", b.DeleteGroup),
		list("policy", "ls", "leeward.policies.v1", b.Policies),
		named("policy", "show", "", b.Policy),
		ask("policy", "apply", "leeward.policies.v1", func(ctx context.Context, d policy.Document) (*Page[Policy], error) {
			all, err := b.Apply(ctx, d)
			return &Page[Policy]{Schema: "leeward.policies.v1", Items: all}, err
		}),
		gone("policy", "delete", b.DeletePolicy),
		ask("point", "pin", "leeward.point.v1", func(ctx context.Context, p PinRequest) (*Point, error) { return b.Pin(ctx, p.ID, p.Name) }),
		named("point", "unpin", "leeward.point.v1", b.Unpin),
		list("plan", "ls", "leeward.plans.v1", b.Plans),
		named("plan", "versions", "leeward.plans.v1", func(ctx context.Context, name string) (*Page[Plan], error) {
			all, err := b.PlanVersions(ctx, name)
			return &Page[Plan]{Schema: "leeward.plans.v1", Items: all}, err
		}),
		ask("plan", "apply", "", b.ApplyPlan),
		gone("plan", "delete", b.DeletePlan),
		ask("plan", "forecast", "leeward.forecast.v1", b.Forecast),
		ask("plan", "run", "leeward.run.v1", b.RunPlan),
		list("run", "ls", "leeward.runs.v1", b.Runs),
		named("run", "show", "leeward.run.v1", b.Run),
		ask("run", "answer", "leeward.run.v1", b.Answer),
		named("run", "cancel", "leeward.run.v1", b.CancelRun),
		plain("notify", "show", "", b.Notifications),
		ask("notify", "set", "", func(ctx context.Context, c notify.Config) (none, error) { return none{}, b.SetNotifications(ctx, c) }),
		plain("notify", "test", "", b.TestNotifications),
		list("audit", "ls", "leeward.audit.v1", b.Records),
	}
}

// PinRequest pins a point, under a name that may be empty.
type PinRequest struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
}

// Groups lists the groups.
func (c *Client) Groups(ctx context.Context) ([]Group, error) {
	return all[Group](ctx, c, "group.ls", Query{})
}

// Group asks for one group.
func (c *Client) Group(ctx context.Context, name string) (*Group, error) {
	return call[Group](ctx, c, "group.show", Ref{ID: name})
}

// ChangeGroup makes a group or changes who is in it.
func (c *Client) ChangeGroup(ctx context.Context, g GroupChange) (*Group, error) {
	return call[Group](ctx, c, "group.change", g)
}

// DeleteGroup removes a group; its points stay.
func (c *Client) DeleteGroup(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, "group.delete", Ref{ID: name})
	return err
}

// Policies lists the policies.
func (c *Client) Policies(ctx context.Context) ([]Policy, error) {
	return all[Policy](ctx, c, "policy.ls", Query{})
}

// Policy asks for one policy.
func (c *Client) Policy(ctx context.Context, name string) (*Policy, error) {
	return call[Policy](ctx, c, "policy.show", Ref{ID: name})
}

// ApplyPolicies writes policies and groups, all or none.
func (c *Client) ApplyPolicies(ctx context.Context, d policy.Document) ([]Policy, error) {
	p, err := call[Page[Policy]](ctx, c, "policy.apply", d)
	if err != nil {
		return nil, err
	}
	return p.Items, nil
}

// DeletePolicy removes a policy.
func (c *Client) DeletePolicy(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, "policy.delete", Ref{ID: name})
	return err
}

// Pin keeps a point whatever the retention says, under a name that may be empty.
func (c *Client) Pin(ctx context.Context, id, name string) (*Point, error) {
	return call[Point](ctx, c, "point.pin", PinRequest{ID: id, Name: name})
}

// Unpin lets a point go by the retention again.
func (c *Client) Unpin(ctx context.Context, id string) (*Point, error) {
	return call[Point](ctx, c, "point.unpin", Ref{ID: id})
}

// Plans lists the plans.
func (c *Client) Plans(ctx context.Context) ([]Plan, error) {
	return all[Plan](ctx, c, "plan.ls", Query{})
}

// PlanVersions lists the versions of a plan, the oldest first.
func (c *Client) PlanVersions(ctx context.Context, name string) ([]Plan, error) {
	p, err := call[Page[Plan]](ctx, c, "plan.versions", Ref{ID: name})
	if err != nil {
		return nil, err
	}
	return p.Items, nil
}

// ApplyPlan writes a new version of a plan.
func (c *Client) ApplyPlan(ctx context.Context, p plan.Plan) (*Plan, error) {
	return call[Plan](ctx, c, "plan.apply", p)
}

// DeletePlan removes a plan; its runs stay.
func (c *Client) DeletePlan(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, "plan.delete", Ref{ID: name})
	return err
}

// Forecast says what a run would do.
func (c *Client) Forecast(ctx context.Context, r RunRequest) (*plan.DryRun, error) {
	return call[plan.DryRun](ctx, c, "plan.forecast", r)
}

// RunPlan begins a run. Give the request an id and a repeat is harmless.
func (c *Client) RunPlan(ctx context.Context, r RunRequest) (*plan.Run, error) {
	return call[plan.Run](ctx, c, "plan.run", r)
}

// Runs lists the runs of plans, the oldest first.
func (c *Client) Runs(ctx context.Context) ([]plan.Run, error) {
	return all[plan.Run](ctx, c, "run.ls", Query{})
}

// Run asks for one run.
func (c *Client) Run(ctx context.Context, id string) (*plan.Run, error) {
	return call[plan.Run](ctx, c, "run.show", Ref{ID: id})
}

// Answer answers a run that asks.
func (c *Client) Answer(ctx context.Context, a Answer) (*plan.Run, error) {
	return call[plan.Run](ctx, c, "run.answer", a)
}

// CancelRun ends a run: nothing new is started, scripts on their way are ended.
// Machines that came up stay.
func (c *Client) CancelRun(ctx context.Context, id string) (*plan.Run, error) {
	return call[plan.Run](ctx, c, "run.cancel", Ref{ID: id})
}

// Notifications asks where notifications go. Tokens and passwords stay in their files.
func (c *Client) Notifications(ctx context.Context) (*notify.Config, error) {
	return call[notify.Config](ctx, c, "notify.show", struct{}{})
}

// SetNotifications says where notifications go.
func (c *Client) SetNotifications(ctx context.Context, n notify.Config) error {
	_, err := call[struct{}](ctx, c, "notify.set", n)
	return err
}

// TestNotifications sends a test notification everywhere.
func (c *Client) TestNotifications(ctx context.Context) (*notify.Report, error) {
	return call[notify.Report](ctx, c, "notify.test", struct{}{})
}

// Records lists the audit trail, the oldest first.
func (c *Client) Records(ctx context.Context, q Query) ([]Record, error) {
	return all[Record](ctx, c, "audit.ls", q)
}
