package markers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

const (
	crowd    = 64
	limit    = 3 * time.Second // of the freeze; far more than this takes on an idle machine
	patience = 2 * time.Minute // for what a busy machine does sometime
)

// unhurried tries with a bound and, where a busy machine did not keep it, with longer ones.
func unhurried(t *testing.T, bound time.Duration, try func(bound time.Duration) error) {
	t.Helper()
	err := try(bound)
	for range 2 {
		if err == nil {
			return
		}
		t.Logf("within %v: %v", bound, err)
		bound *= 4
		err = try(bound)
	}
	if err != nil {
		t.Fatalf("within %v: %v", bound, err)
	}
}

// machine is a member whose freeze is only a note of when. fault says what goes
// wrong at which stage.
type machine struct {
	name  string
	fault string // "", "dies", "slow", "fails"
	at    Stage

	mu             sync.Mutex
	frozen, thawed time.Time
	until          time.Time
	cuts           int
}

var errDied = errors.New("killed")

func (m *machine) step(ctx context.Context, s Stage) error {
	if m.at != s {
		return nil
	}
	switch m.fault {
	case "fails":
		return errors.New("it broke")
	case "dies":
		<-ctx.Done() // never to be heard of again
		return errDied
	case "slow":
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (m *machine) Prepare(ctx context.Context, _ *Order) error { return m.step(ctx, Prepare) }
func (m *machine) Close(ctx context.Context, _ *Order) error   { return m.step(ctx, Close) }

func (m *machine) Freeze(ctx context.Context, o *Order) (time.Time, error) {
	m.mu.Lock()
	m.frozen = time.Now()
	m.until = m.frozen.Add(o.Limit)
	m.mu.Unlock()
	time.AfterFunc(o.Limit, m.thaw) // the guard
	return m.until, m.step(ctx, Freeze)
}

func (m *machine) thaw() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.frozen.IsZero() && m.thawed.IsZero() {
		m.thawed = time.Now()
	}
}

func (m *machine) Thaw(ctx context.Context, o *Order) (*wire.Member, time.Duration, error) {
	m.mu.Lock()
	early := !m.thawed.IsZero()
	m.mu.Unlock()
	m.thaw()
	if early {
		return nil, 0, errors.New("the guard was faster")
	}
	if err := m.step(ctx, Go); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cuts++
	return cut(m.name), m.thawed.Sub(m.frozen), nil
}

func (m *machine) Undo() { m.thaw() }

// join runs members until the function that it returns is called.
func join(t *testing.T, b *bus.Bus, all []*machine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, m := range all {
		orders := make(chan *Order, 16)
		sub, err := b.Conn.Subscribe(streams.BarrierOrder(m.name), func(msg *nats.Msg) {
			o, err := DecodeOrder(msg.Data)
			if err != nil {
				t.Error(err)
				return
			}
			orders <- o
		})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer func() { _ = sub.Unsubscribe() }()
			for {
				select {
				case o := <-orders:
					if o.Stage == Call && !(m.fault == "dies" && m.at == Call) {
						_ = Join(ctx, b.Conn, m.name, o, orders, m) // what comes of it shows in the marker
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

func plan(id string, all []*machine) Plan {
	p := Plan{ID: id, Group: "shop", Consistency: wire.Crash, Limit: limit, Patience: DefaultPatience}
	for _, m := range all {
		p.Members = append(p.Members, m.name)
	}
	return p
}

func makeCrowd(prefix string) []*machine {
	all := make([]*machine, crowd)
	for i := range all {
		all[i] = &machine{name: fmt.Sprintf("%s%02d", prefix, i)}
	}
	return all
}

// overlap says whether there was an instant at which all stood still.
func overlap(all []*machine) bool {
	var last, first time.Time
	for _, m := range all {
		m.mu.Lock()
		if m.frozen.After(last) {
			last = m.frozen
		}
		if first.IsZero() || m.thawed.Before(first) {
			first = m.thawed
		}
		m.mu.Unlock()
	}
	return last.Before(first)
}

func markersOn(t *testing.T, b *bus.Bus) uint64 {
	s, err := b.JS.Stream(t.Context(), streams.Markers)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestCrowdCutsTogether(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	var all []*machine
	var m *wire.Marker
	unhurried(t, limit, func(bound time.Duration) (err error) {
		all = makeCrowd("m")
		for i, m := range all { // some are slow, each at another stage, and that is all right
			if i%8 == 0 {
				m.fault, m.at = "slow", []Stage{Prepare, Close, Freeze, Go}[i/8%4]
			}
		}
		defer join(t, b, all)()
		p := plan("aaaa", all)
		p.ID += bound.String()
		p.Limit, p.Patience.Call = bound, 2*bound
		m, err = Lead(t.Context(), b.Conn, b.JS, p)
		return err
	})
	if len(m.Members) != crowd || !overlap(all) || m.Skew <= 0 || m.Took < int64(300*time.Millisecond) || m.Frozen < int64(300*time.Millisecond) {
		t.Errorf("%d members, overlap %v, skew %v, took %v, frozen %v", len(m.Members), overlap(all), time.Duration(m.Skew), time.Duration(m.Took), time.Duration(m.Frozen))
	}
	msg, err := lastMarker(t, b)
	if err != nil || msg.ID != m.ID || len(msg.Members) != crowd || msg.Members[7].Machine != "m07" || msg.Members[7].Frozen == 0 {
		t.Errorf("the marker on the bus is %+v, %v", msg, err)
	}
	t.Logf("%d members: skew %v, longest freeze %v, took %v", crowd, time.Duration(m.Skew), time.Duration(m.Frozen), time.Duration(m.Took))
}

func lastMarker(t *testing.T, b *bus.Bus) (*wire.Marker, error) {
	s, err := b.JS.Stream(t.Context(), streams.Markers)
	if err != nil {
		return nil, err
	}
	var raw *jetstream.RawStreamMsg
	if raw, err = s.GetLastMsgForSubject(t.Context(), streams.MarkersSubject("shop")); err != nil {
		return nil, err
	}
	return wire.DecodeMarker(raw.Data)
}

// One of many dies, fails, or is too slow, at every stage: no point, and everybody
// runs on within the bound.
func TestOneSpoilsIt(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	for _, stage := range stages {
		for _, fault := range []string{"dies", "fails"} {
			if stage == Call && fault == "fails" {
				continue // there is nothing to fail
			}
			t.Run(string(stage)+" "+fault, func(t *testing.T) {
				t.Parallel()
				all := makeCrowd("m-" + string(stage) + "-" + fault + "-")
				bad := all[17]
				bad.fault, bad.at = fault, stage
				defer join(t, b, all)()
				p := plan("b"+string(stage)+fault, all)
				p.Patience = Patience{Call: time.Second, Prepare: time.Second, Close: time.Second, Go: time.Second}
				p.Limit = time.Second
				_, err := Lead(t.Context(), b.Conn, b.JS, p)
				f, ok := errors.AsType[*Failure](err)
				if !ok || f.Machine != bad.name {
					// On a busy machine somebody else may be too late as well; a point it must not be.
					if !ok {
						t.Fatalf("got %v", err)
					}
					t.Logf("blamed %v", f)
				}
				if n := markersOn(t, b); n != 0 {
					t.Fatalf("%d markers", n)
				}
				for _, m := range all {
					awaitThaw(t, m, p.Limit)
				}
			})
		}
	}
}

// awaitThaw waits until m runs on, and wants it to have stood no longer than the
// bound and what a timer may be late.
func awaitThaw(t *testing.T, m *machine, bound time.Duration) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		frozen, thawed := m.frozen, m.thawed
		m.mu.Unlock()
		if frozen.IsZero() {
			return
		}
		if !thawed.IsZero() {
			if d := thawed.Sub(frozen); d > bound+patience/2 {
				t.Errorf("%s stood still for %v", m.name, d)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still frozen", m.name)
		}
	}
}

// The coordinator dies after it ordered the freeze: everybody thaws by itself.
func TestCoordinatorDies(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	all := makeCrowd("m")[:8]
	for _, m := range all {
		m.fault, m.at = "hears", "nothing" // the guard only notes; Join itself must undo
	}
	defer join(t, b, all)()
	reports, err := b.Conn.SubscribeSync(streams.BarrierReports)
	if err != nil {
		t.Fatal(err)
	}
	// One may give up before the last has answered: what was heard is noted by machine.
	done, silent := map[string]bool{}, map[string]bool{}
	next := func() {
		t.Helper()
		m, err := reports.NextMsg(patience)
		if err != nil {
			t.Fatalf("%v; answered %v, gave up %v", err, done, silent)
		}
		r, err := DecodeReport(m.Data)
		switch {
		case err != nil || r.Error != "" && !strings.Contains(r.Error, ErrSilent.Error()):
			t.Fatalf("%s, %v", m.Data, err)
		case r.Error != "":
			silent[r.Machine] = true
		default:
			done[string(r.Stage)+r.Machine] = true
		}
	}
	heard := func(s Stage) {
		t.Helper()
		for _, m := range all {
			for !done[string(s)+m.name] {
				next()
			}
		}
	}
	for _, s := range []Stage{Call, Prepare, Close, Freeze} {
		o := &Order{Barrier: "dead", Group: "shop", Stage: s, Consistency: wire.Crash, Limit: 300 * time.Millisecond, Point: "p"}
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if err := b.Conn.Publish(streams.BarrierOrder(m.name), raw); err != nil {
				t.Fatal(err)
			}
		}
		heard(s)
	}
	gaveUp := func() bool {
		for _, m := range all {
			if !silent[m.name] {
				return false
			}
		}
		return true
	}
	for !gaveUp() {
		next()
	}
	for _, m := range all {
		awaitThaw(t, m, 300*time.Millisecond)
	}
}

// A member that is in one barrier refuses another at once.
func TestBusyMemberRefuses(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	unhurried(t, 3*time.Second, func(bound time.Duration) error {
		all := makeCrowd("m")[:2]
		all[1].fault, all[1].at = "dies", Prepare
		defer join(t, b, all)()
		p := plan("first"+bound.String(), all)
		p.Patience.Prepare, p.Patience.Call = bound, patience // the second's call comes while the first is in prepare
		heard, err := b.Conn.SubscribeSync(streams.BarrierReport("m00"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = heard.Unsubscribe() }()
		done := make(chan error, 1)
		go func() { _, err := Lead(t.Context(), b.Conn, b.JS, p); done <- err }()
		for r := (&Report{}); r.Stage != Prepare; {
			m, err := heard.NextMsg(patience)
			if err != nil {
				t.Fatal(err)
			}
			if r, err = DecodeReport(m.Data); err != nil {
				t.Fatal(err)
			}
		}
		_, err = Lead(t.Context(), b.Conn, b.JS, plan("second"+bound.String(), all[:1]))
		first := <-done
		if f, ok := errors.AsType[*Failure](first); !ok || f.Machine != "m01" || f.Stage != Prepare {
			return fmt.Errorf("the first ended with %w", first)
		}
		if f, ok := errors.AsType[*Failure](err); !ok || f.Machine != "m00" || !strings.Contains(f.Why, "another barrier") {
			return fmt.Errorf("the second ended with %w", err)
		}
		return nil
	})
}
