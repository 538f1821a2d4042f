package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// backend answers what the test wants; the bus between is real.
type backend struct {
	Backend
	points  []Point
	err     error
	changed chan failover.Job
	asked   int
}

func (b *backend) Audit(context.Context, Record) error { return nil }

func (b *backend) AskLife(context.Context, life.Kind, LifeRequest) ([]life.Life, error) {
	b.asked++
	return []life.Life{}, nil
}

func (b *backend) Test(context.Context, failover.Request) (failover.Job, error) {
	b.asked++
	return failover.Job{}, nil
}

func (b *backend) Status(context.Context) (*Status, error) { return &Status{Version: "9"}, b.err }

func (b *backend) Points(_ context.Context, q Query) ([]Point, error) { return b.points, b.err }

func (b *backend) Machines(_ context.Context, q Query) ([]Machine, error) {
	if q.Machine == "web" {
		return []Machine{{Machine: "web"}}, nil
	}
	return nil, nil
}

func (b *backend) WatchJob(ctx context.Context, id string, after uint64) (failover.Job, error) {
	select {
	case j := <-b.changed:
		return j, nil
	case <-ctx.Done():
		return failover.Job{ID: id, Revision: after}, ctx.Err()
	}
}

func serveTest(t *testing.T, b *backend) (*bus.Bus, *Client) {
	t.Helper()
	nc := streamstest.Start(t)
	s, err := Serve(nc.Conn, b, "1.0.0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return nc, NewClient(nc.Conn)
}

func TestListsComeInPages(t *testing.T) {
	t.Parallel()
	b := &backend{}
	for i := range 3000 {
		b.points = append(b.points, Point{ID: fmt.Sprintf("p%04d", i), Group: strings.Repeat("g", 900)})
	}
	_, c := serveTest(t, b)
	all, err := c.Points(t.Context(), Query{})
	if err != nil || len(all) != 3000 {
		t.Fatalf("%d points, %v", len(all), err)
	}
	for i, p := range all {
		if p.ID != fmt.Sprintf("p%04d", i) {
			t.Fatalf("item %d is %s", i, p.ID)
		}
	}
	if all, err = c.Points(t.Context(), Query{Limit: 2}); err != nil || len(all) != 2 || all[1].ID != "p2999" {
		t.Errorf("the newest two: %v, %v", all, err)
	}
	if _, err := c.Points(t.Context(), Query{Cursor: "tea"}); AsError(err).Code != CodeUsage {
		t.Errorf("a wrong cursor: %v", err)
	}
}

func TestErrorsCarryTheirCode(t *testing.T) {
	t.Parallel()
	b := &backend{}
	nc, c := serveTest(t, b)
	for code, err := range map[Code]error{
		CodeRefused:  Errorf(CodeRefused, "use --force", "it is there already"),
		CodeNotFound: fmt.Errorf("look: %w", failover.ErrNoJob),
		CodeFailed:   errors.New("it broke"),
		CodeTimeout:  context.DeadlineExceeded,
	} {
		b.err = err
		_, got := c.Status(t.Context())
		e, ok := errors.AsType[*Error](got)
		if !ok || e.Code != code || e.Message != err.Error() {
			t.Errorf("%v arrives as %#v", err, got)
		}
	}
	b.err = Errorf(CodeRefused, "use --force", "it is there already")
	if _, err := c.Status(t.Context()); AsError(err).Try != "use --force" {
		t.Errorf("what to try is lost: %#v", err)
	}
	if _, err := c.Machine(t.Context(), "mail"); AsError(err).Code != CodeNotFound {
		t.Errorf("unknown machine: %v", err)
	}
	if m, err := c.Machine(t.Context(), "web"); err != nil || m.Schema != "leeward.machine.v1" {
		t.Errorf("machine: %+v, %v", m, err)
	}
	for name, body := range map[string]string{"unknown field": `{"machin":"web"}`, "not JSON": "\x00", "two documents": "{}{}", "long": strings.Repeat(" ", maxRequest+1)} {
		m, err := nc.Conn.Request(Prefix+".point.ls", []byte(body), time.Minute)
		if err != nil || m.Header.Get("Nats-Service-Error-Code") != string(CodeUsage) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	nc := streamstest.Start(t)
	_, err := NewClient(nc.Conn).Status(t.Context())
	if e := AsError(err); e.Code != CodeNoConnection || e.Try == "" {
		t.Errorf("no control: %#v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewClient(nc.Conn).Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	nc.Close()
	_, err = NewClient(nc.Conn).Status(t.Context())
	if !errors.Is(err, nats.ErrConnectionClosed) || AsError(err).Code != CodeNoConnection {
		t.Errorf("closed: %#v", err)
	}
}

// A request that waits must not hold up others of its endpoint.
func TestWatchersDoNotBlock(t *testing.T) {
	t.Parallel()
	b := &backend{changed: make(chan failover.Job)}
	_, c := serveTest(t, b)
	got := make(chan *failover.Job, 3)
	for range 3 {
		go func() {
			j, err := c.WatchJob(t.Context(), "tf-1", 4)
			if err != nil {
				j = &failover.Job{ID: err.Error()}
			}
			got <- j
		}()
	}
	for i := range 3 {
		select {
		case b.changed <- failover.Job{ID: "tf-1", Revision: uint64(5 + i)}:
		case <-time.After(2 * time.Minute):
			t.Fatal("only one watcher at a time")
		}
	}
	for range 3 {
		if j := <-got; j.ID != "tf-1" || j.Revision < 5 {
			t.Errorf("watched %+v", j)
		}
	}
}

// The server marks copies of stored messages; one is no request, whoever had it
// sent here.
func TestCopiesAreNoRequests(t *testing.T) {
	b := &backend{}
	nc, c := serveTest(t, b)
	m := nats.NewMsg(Prefix + ".status.show")
	m.Header = nats.Header{"Nats-Stream": {"CHANGES"}, "Nats-Sequence": {"7"}}
	if a, err := nc.Conn.RequestMsg(m, 200*time.Millisecond); err == nil {
		t.Errorf("a copy was answered: %s", a.Data)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}
