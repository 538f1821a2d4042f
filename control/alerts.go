package control

import (
	"context"
	"errors"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/book"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/notify"
	"github.com/leeward-dr/leeward/control/policy"
)

// notifyName is the name of the one document of kind notify.
const notifyName = "default"

// notify sends notifications until control stops.
func (s *Service) notify() {
	known := notify.Known{}
	for s.sleep(s.cfg.NotifyEvery) {
		e, err := book.Get[notify.Config](s.base, s.book, book.Notify, notifyName)
		if err != nil {
			if !errors.Is(err, book.ErrNotFound) && s.base.Err() == nil {
				s.log.Warn("cannot read where notifications go", "err", err)
			}
			continue
		}
		var issues []health.Issue
		now := time.Now().UTC()
		for _, m := range s.machinesNow(now, "") {
			issues = append(issues, m.Issues...)
		}
		for _, m := range notify.Changes(now, known, issues, e.Value.Level) {
			for _, why := range notify.Send(s.base, &e.Value, &m).Failed {
				s.log.Error("a notification was not delivered", "code", m.Code, "machine", m.Machine, "to", why)
			}
		}
	}
}

// Notifications implements api.Manager.
func (s *Service) Notifications(ctx context.Context) (*notify.Config, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	e, err := book.Get[notify.Config](ctx, s.book, book.Notify, notifyName)
	if errors.Is(err, book.ErrNotFound) {
		return &notify.Config{Level: health.Warning}, nil
	}
	return &e.Value, err
}

// SetNotifications implements api.Manager.
func (s *Service) SetNotifications(ctx context.Context, c notify.Config) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	if err := c.Validate(); err != nil {
		return api.Errorf(api.CodeUsage, "", "%w", err)
	}
	_, err := s.book.Put(ctx, book.Notify, notifyName, c, api.ActorOf(ctx).Name, book.Any)
	return err
}

// TestNotifications implements api.Manager.
func (s *Service) TestNotifications(ctx context.Context) (*notify.Report, error) {
	c, err := s.Notifications(ctx)
	if err != nil {
		return nil, err
	}
	if len(c.Webhooks)+len(c.Mails) == 0 {
		return nil, api.Errorf(api.CodeRefused, "leeward notify set FILE", "nobody gets notifications")
	}
	return notify.Send(ctx, c, &notify.Message{
		Time: time.Now().UTC(), Level: health.Healthy, Code: "test", Cause: "this is a test that " + api.ActorOf(ctx).Name + " asked for",
	}), nil
}

// retention is what to keep of a group's points; a machine alone is a group of its
// name.
func (s *Service) retention(group string) vault.Retention {
	r := s.rules.Load()
	if r.group(group) != nil {
		return policy.For(r.policies, "", group).Retention
	}
	return r.policyOf(group).Retention
}

// pointsInUse names the points that jobs, failovers and standby disks stand on.
func (s *Service) pointsInUse() []string {
	ids := s.standby.InUse()
	for _, l := range s.lives.list() {
		if l.Point != "" && l.Phase != life.Protected {
			ids = append(ids, l.Point)
		}
	}
	for _, j := range s.engine.Jobs() {
		if j.Point != "" && (j.State.Running() || j.State.Waiting()) {
			ids = append(ids, j.Point)
		}
	}
	return ids
}
