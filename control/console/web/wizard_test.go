package web

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/streams/trust"
)

func (c *control) Life(_ context.Context, machine string) (*life.Life, error) {
	return &life.Life{Machine: machine, Phase: life.Protected}, nil
}

func (c *control) Points(context.Context, api.Query) ([]api.Point, error) {
	return []api.Point{{ID: "p1", Time: time.Now().Add(-time.Minute), Consistency: "crash"}}, nil
}

func (c *control) ValidateLife(_ context.Context, r api.LifeRequest) (*api.Validation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := api.LifeCheck{Machine: r.Machine, Check: "target", Result: api.Fine, What: "there is room"}
	if c.bad {
		k.Result, k.What = api.Bad, "there is no such bridge"
	}
	return &api.Validation{Good: !c.bad, Checks: []api.LifeCheck{k}}, nil
}

func (c *control) AskLife(_ context.Context, _ life.Kind, r api.LifeRequest) ([]life.Life, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began = append(c.began, r)
	return []life.Life{{Machine: r.Machine, Phase: life.Fencing}}, nil
}

// What control found that it would fail is not done by typing a name: it has to be ticked too.
func TestWhatWouldFailNeedsMoreThanAName(t *testing.T) {
	t.Parallel()
	s := serve(t, false)
	s.at.set([]api.Machine{{Machine: "web"}}, nil)
	op := s.in(trust.Operator)
	op.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // what counts is what was asked
	chosen := url.Values{"kind": {"failover"}, "point": {"p1"}, "serial": {"login:"}}
	look := func() string {
		t.Helper()
		q := url.Values{"step": {"4"}}
		for k, v := range chosen {
			q[k] = v
		}
		code, page := s.get(op, "/machines/web/failover?"+q.Encode())
		if code != 200 || !strings.Contains(page, "What control found") {
			t.Fatalf("the last look: %d %s", code, page)
		}
		return page
	}
	begin := func(more ...string) (int, string) {
		t.Helper()
		form := url.Values{"request": {"r1"}, "confirm": {"web"}}
		for k, v := range chosen {
			form[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			form.Set(more[i], more[i+1])
		}
		return s.post(op, "/machines/web/failover", form)
	}
	began := func() int {
		s.at.mu.Lock()
		defer s.at.mu.Unlock()
		return len(s.at.began)
	}
	if page := look(); strings.Contains(page, `name="anyway"`) || strings.Contains(page, `name="found"`) {
		t.Error("what would work asks for an override")
	}
	s.at.mu.Lock()
	s.at.bad = true
	s.at.mu.Unlock()
	page := look()
	for _, want := range []string{"It would fail.", `name="found" value="bad"`, `name="anyway"`, "over anyway"} {
		if !strings.Contains(page, want) {
			t.Errorf("the last look at what would fail does not say %q", want)
		}
	}
	if code, page := begin("found", "bad"); code != 409 || !strings.Contains(page, "would fail") || began() != 0 {
		t.Errorf("by its name alone: %d, %d began", code, began())
	}
	begin("found", "bad", "anyway", "yes")
	if began() != 1 || s.at.began[0].Confirm != "web" {
		t.Errorf("ticked: %+v", s.at.began)
	}
	if begin(); began() != 2 {
		t.Error("what would work is not done")
	}
}
