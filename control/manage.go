package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/book"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/streams"
)

var _ api.Manager = (*Service)(nil)

// Groups implements api.Manager.
func (s *Service) Groups(ctx context.Context, _ api.Query) ([]api.Group, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	all, err := book.List[policy.Group](ctx, s.book, book.Group)
	if err != nil {
		return nil, err
	}
	out := []api.Group{}
	for _, e := range all {
		g := api.Group{
			Group: e.Name, Members: e.Value.Members, Version: e.Version, Changed: e.Changed, By: e.By,
			Policy: policy.For(s.rules.Load().policies, "", e.Name).Name,
		}
		st := s.guides.state(e.Name)
		g.Trouble, g.Failed, g.LastTry = st.trouble, st.failed, st.at
		for _, p := range slices.Backward(s.state.pointsOf(e.Name)) {
			if p.Group == e.Name {
				age := time.Since(p.Time).Seconds()
				g.LatestPoint, g.Age = &api.PointRef{ID: p.ID, Time: p.Time, Consistency: p.Consistency}, &age
				g.LatestMembers, g.SkewSeconds, g.FrozenSeconds = len(p.Machines), p.Skew.Seconds(), p.Frozen.Seconds()
				break
			}
		}
		out = append(out, g)
	}
	return out, nil
}

// ChangeGroup implements api.Manager.
func (s *Service) ChangeGroup(ctx context.Context, c api.GroupChange) (*api.Group, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	s.editing.Lock()
	defer s.editing.Unlock()
	all, err := book.List[policy.Group](ctx, s.book, book.Group)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(e book.Entry[policy.Group]) bool { return e.Name == c.Group })
	seen := book.New
	g := policy.Group{Name: c.Group}
	switch {
	case i >= 0 && c.Create:
		return nil, api.Errorf(api.CodeRefused, "leeward group add "+c.Group+" MACHINE…", "group %s is there already", c.Group)
	case i < 0 && !c.Create:
		return nil, api.Errorf(api.CodeNotFound, "leeward group ls", "there is no group %s", c.Group)
	case i >= 0:
		g, seen = all[i].Value, all[i].Version
		g.Members = slices.Clone(g.Members)
	}
	for _, m := range c.Remove {
		k := slices.Index(g.Members, m)
		if k < 0 {
			return nil, api.Errorf(api.CodeNotFound, "leeward group show "+c.Group, "machine %s is not in group %s", m, c.Group)
		}
		g.Members = slices.Delete(g.Members, k, k+1)
	}
	g.Members = append(g.Members, c.Add...)
	if g.Members == nil {
		g.Members = []string{}
	}
	groups := []policy.Group{g}
	for k, e := range all {
		if k != i {
			groups = append(groups, e.Value)
		}
	}
	if err := errors.Join(g.Validate(), policy.CheckGroups(groups)); err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%w", err)
	}
	if c.Create && s.state.knowsMachine(g.Name) && !slices.Equal(g.Members, []string{g.Name}) {
		return nil, api.Errorf(api.CodeRefused, "choose another name", "a machine is called %s: its own points have that name", g.Name)
	}
	if _, err := s.book.Put(ctx, book.Group, g.Name, g, api.ActorOf(ctx).Name, seen); err != nil {
		return nil, changed(err)
	}
	// What is asked for next must know it; the watch of the book comes later.
	if err := s.readRules(ctx); err != nil {
		return nil, err
	}
	return s.Group(ctx, g.Name)
}

// changed gives the book's errors a code.
func changed(err error) error {
	switch {
	case errors.Is(err, book.ErrChanged):
		return api.Errorf(api.CodeRefused, "look at it again and repeat", "%w", err)
	case errors.Is(err, book.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "", "%w", err)
	}
	return err
}

// Group implements api.Manager.
func (s *Service) Group(ctx context.Context, name string) (*api.Group, error) {
	all, err := s.Groups(ctx, api.Query{})
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Group == name {
			all[i].Schema = "leeward.group.v1"
			return &all[i], nil
		}
	}
	return nil, api.Errorf(api.CodeNotFound, "leeward group ls", "there is no group %s", name)
}

// DeleteGroup implements api.Manager. The group's points stay.
func (s *Service) DeleteGroup(ctx context.Context, name string) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	return changed(s.book.Delete(ctx, book.Group, name))
}

// Policies implements api.Manager. The default policy is there even if nobody wrote
// one.
func (s *Service) Policies(ctx context.Context, _ api.Query) ([]api.Policy, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	all, err := book.List[policy.Policy](ctx, s.book, book.Policy)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(all, func(e book.Entry[policy.Policy]) bool { return e.Name == policy.Default }) {
		all = slices.Insert(all, 0, book.Entry[policy.Policy]{Name: policy.Default, Value: policy.New(policy.Default)})
	}
	return all, nil
}

// Policy implements api.Manager.
func (s *Service) Policy(ctx context.Context, name string) (*api.Policy, error) {
	all, err := s.Policies(ctx, api.Query{})
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, api.Errorf(api.CodeNotFound, "leeward policy ls", "there is no policy %s", name)
}

// Apply implements api.Manager: it writes policies and groups, all of them or, if one
// cannot be, none.
func (s *Service) Apply(ctx context.Context, d policy.Document) ([]api.Policy, error) {
	all, err := s.Policies(ctx, api.Query{})
	if err != nil {
		return nil, err
	}
	s.editing.Lock()
	defer s.editing.Unlock()
	merged := policy.Document{Policies: slices.Clone(d.Policies), Groups: slices.Clone(d.Groups)}
	for _, e := range all {
		if !slices.ContainsFunc(d.Policies, func(p policy.Policy) bool { return p.Name == e.Name }) {
			merged.Policies = append(merged.Policies, e.Value)
		}
	}
	for _, g := range s.rules.Load().groups {
		if !slices.ContainsFunc(d.Groups, func(n policy.Group) bool { return n.Name == g.Name }) {
			merged.Groups = append(merged.Groups, g)
		}
	}
	if err := merged.Validate(); err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%w", err)
	}
	by := api.ActorOf(ctx).Name
	for _, p := range d.Policies {
		if _, err := s.book.Put(ctx, book.Policy, p.Name, p, by, book.Any); err != nil {
			return nil, err
		}
	}
	for _, g := range d.Groups {
		if _, err := s.book.Put(ctx, book.Group, g.Name, g, by, book.Any); err != nil {
			return nil, err
		}
	}
	if err := s.readRules(ctx); err != nil {
		return nil, err
	}
	return s.Policies(ctx, api.Query{})
}

// DeletePolicy implements api.Manager.
func (s *Service) DeletePolicy(ctx context.Context, name string) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	return changed(s.book.Delete(ctx, book.Policy, name))
}

// Pin implements api.Manager. A name that it has already is replaced.
func (s *Service) Pin(ctx context.Context, id, name string) (*api.Point, error) {
	p, err := s.Point(ctx, id)
	if err != nil {
		return nil, err
	}
	s.editing.Lock()
	defer s.editing.Unlock()
	pins, err := s.pins(ctx)
	if err != nil {
		return nil, err
	}
	for other, pin := range pins {
		if name != "" && pin.Name == name && other != p.ID {
			return nil, api.Errorf(api.CodeRefused, "leeward point unpin "+other, "point %s has the name %q", other, name)
		}
	}
	if old, ok := pins[p.ID]; ok && old.Name != name {
		// Points are removed by this process only, and not while editing is locked.
		if err := s.vault.Unpin(ctx, p.ID); err != nil {
			return nil, err
		}
	}
	if err := s.vault.Pin(ctx, p.ID, name); err != nil && !errors.Is(err, vault.ErrExists) {
		return nil, err
	}
	return s.Point(ctx, p.ID)
}

// Unpin implements api.Manager.
func (s *Service) Unpin(ctx context.Context, id string) (*api.Point, error) {
	p, err := s.Point(ctx, id)
	if err != nil {
		return nil, err
	}
	s.editing.Lock()
	defer s.editing.Unlock()
	if err := s.vault.Unpin(ctx, p.ID); err != nil {
		if errors.Is(err, vault.ErrNotFound) {
			return nil, api.Errorf(api.CodeRefused, "", "point %s is not pinned", p.ID)
		}
		return nil, err
	}
	return s.Point(ctx, p.ID)
}

func (s *Service) pins(ctx context.Context) (map[string]vault.Pin, error) {
	all, bad, err := s.vault.Pins(ctx)
	if err != nil {
		return nil, err
	}
	for _, err := range bad {
		s.log.Warn("a pin is unreadable; its point is kept", "err", err)
	}
	out := map[string]vault.Pin{}
	for _, p := range all {
		out[p.Point] = p
	}
	return out, nil
}

// named turns the name of a point of a machine into its id. Other words stay.
func (s *Service) named(ctx context.Context, machine, word string) (string, error) {
	switch word {
	case "", failover.Latest, failover.LatestProcessed, failover.LatestApp, failover.LatestMulti, failover.LatestMultiApp:
		return word, nil
	}
	pins, err := s.pins(ctx)
	if err != nil {
		return "", err
	}
	for id, p := range pins {
		if p.Name == word && slices.ContainsFunc(s.state.pointsOf(machine), func(p *vault.Point) bool { return p.ID == id }) {
			return id, nil
		}
	}
	return word, nil
}

// Audit implements api.Manager: it keeps a record of an action.
func (s *Service) Audit(ctx context.Context, r api.Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write an audit record: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTime)
	defer cancel()
	if _, err := s.bus.JS.Publish(ctx, streams.AuditSubject(r.Action), b); err != nil {
		return fmt.Errorf("keep an audit record of %s: %w", r.Action, err)
	}
	return nil
}

// auditRead is how many records are read for a list.
const auditRead = 10000

// Records implements api.Manager.
func (s *Service) Records(ctx context.Context, q api.Query) ([]api.Record, error) {
	st, err := s.bus.JS.Stream(ctx, streams.Audit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", streams.Audit, err)
	}
	last := st.CachedInfo().State.LastSeq
	if st.CachedInfo().State.Msgs == 0 {
		return []api.Record{}, nil
	}
	first := max(st.CachedInfo().State.FirstSeq, last-min(last, auditRead)+1)
	c, err := s.bus.JS.OrderedConsumer(ctx, streams.Audit, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", streams.Audit, err)
	}
	out := []api.Record{}
	for seq := first; seq <= last; {
		batch, err := c.Fetch(int(min(last-seq+1, 256)), jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", streams.Audit, err)
		}
		n := 0
		for m := range batch.Messages() {
			n++
			meta, err := m.Metadata()
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", streams.Audit, err)
			}
			seq = meta.Sequence.Stream + 1
			var r api.Record
			if err := json.Unmarshal(m.Data(), &r); err != nil {
				s.log.Warn("unreadable audit record", "seq", meta.Sequence.Stream, "err", err)
				continue
			}
			if q.Kind != "" && r.Action != q.Kind || r.Time.Before(q.Since) {
				continue
			}
			out = append(out, r)
		}
		if n == 0 {
			return nil, fmt.Errorf("read %s: record %d of %d does not come: %w", streams.Audit, seq, last, errors.Join(batch.Error(), ctx.Err()))
		}
	}
	return out, nil
}

// knowsMachine reports whether a machine of that name is known.
func (s *state) knowsMachine(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machines[name] != nil
}
