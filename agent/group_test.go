package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

func shop(id string) markers.Plan {
	return markers.Plan{
		ID: id, Group: "shop", Members: []string{"m1", "m2"}, Consistency: wire.Crash,
		Limit: 20 * time.Second, Every: time.Hour, Patience: markers.DefaultPatience,
	}
}

// Two agents cut together: what the receivers hold at the cut is what the disks held,
// and no agent cuts alone while its group does.
func TestAgentsCutTogether(t *testing.T) {
	b := streamstest.Start(t)
	paths := map[string]string{}
	recv := map[string]*receiver{}
	for _, m := range []string{"m1", "m2"} {
		paths[m] = image(t, 800)
		recv[m] = receive(t.Context(), t, b, m, "d")
		cfg := config(t, paths[m])
		cfg.Machine = m
		start(t, cfg, b)
	}
	for m, r := range recv {
		until(t, "a cut of "+m+" alone", func() bool { return r.hasCut(sumOf(t, paths[m])) })
	}
	change(t, paths["m1"], 700, "cause")
	change(t, paths["m2"], 700, "effect")
	var mk *wire.Marker
	until(t, "a point of both", func() bool { // a point alone may be under way when the call comes
		var err error
		if mk, err = markers.Lead(t.Context(), b.Conn, b.JS, shop("aaaaaaaa")); err != nil {
			t.Log(err)
		}
		return err == nil
	})
	if len(mk.Members) != 2 || mk.Members[0].Machine != "m1" || mk.Members[1].Disks[0].Number == 0 || mk.Took <= 0 {
		t.Fatalf("marker %+v", mk)
	}
	for m, r := range recv {
		until(t, "the common cut of "+m, func() bool { return get(r, func() [32]byte { return r.cuts[mk.ID] }) == sumOf(t, paths[m]) })
	}
	cuts := func() int {
		return get(recv["m1"], func() int { return len(recv["m1"].cuts) })
	}
	before := cuts()
	change(t, paths["m1"], 701, "more")
	if _, err := markers.Lead(t.Context(), b.Conn, b.JS, shop("bbbbbbbb")); err != nil {
		t.Fatal(err)
	}
	until(t, "the second common cut", func() bool { return cuts() > before })
	if n := cuts(); n != before+1 {
		t.Errorf("%d cuts during two points of the group: the agent cuts alone as well", n-before+1)
	}
}

// One machine is not there: no point, and the other goes on alone when its group is
// not heard of any more.
func TestGroupWithoutAMember(t *testing.T) {
	b := streamstest.Start(t)
	path := image(t, 400)
	r := receive(t.Context(), t, b, "m1", "d")
	cfg := config(t, path)
	cfg.Machine = "m1"
	start(t, cfg, b)
	until(t, "the first cut", func() bool { return r.hasCut(sumOf(t, path)) })
	p := shop("aaaaaaaa")
	p.Every, p.Patience.Call = 0, time.Second
	_, err := markers.Lead(t.Context(), b.Conn, b.JS, p)
	if f, ok := errors.AsType[*markers.Failure](err); !ok || f.Machine != "m2" || !strings.Contains(f.Why, "no answer") {
		t.Fatalf("got %v", err)
	}
	change(t, path, 300, "alone again")
	until(t, "a cut alone", func() bool { return r.hasCut(sumOf(t, path)) })
}

// A disk that cannot be frozen and is written to between its cut and the last
// member's has no part in a point.
func TestWriteBetweenCutsSpoilsThePoint(t *testing.T) {
	b := streamstest.Start(t)
	path := image(t, 400)
	r := receive(t.Context(), t, b, "m1", "d")
	cfg := config(t, path)
	cfg.Machine = "m1"
	cfg.AtCut = func(point string, _ func(context.Context) error) error {
		if strings.HasSuffix(point, "-bad") {
			change(t, path, 300, "too late")
		}
		return nil
	}
	start(t, cfg, b)
	until(t, "the first cut", func() bool { return r.hasCut(sumOf(t, path)) })
	p := shop("bad")
	p.Members = p.Members[:1]
	until(t, "the point is given up for the write", func() bool {
		_, err := markers.Lead(t.Context(), b.Conn, b.JS, p)
		if err == nil {
			t.Fatal("a point in spite of the write")
		}
		return strings.Contains(err.Error(), errBusy.Error())
	})
	p = shop("good")
	p.Members = p.Members[:1]
	until(t, "a point without a write", func() bool {
		_, err := markers.Lead(t.Context(), b.Conn, b.JS, p)
		return err == nil
	})
	until(t, "the write is in the next cut", func() bool { return r.hasCut(sumOf(t, path)) })
}

// Control says how often to cut, and the agent follows at once.
func TestAgentFollowsThePolicy(t *testing.T) {
	b := streamstest.Start(t)
	path := image(t, 200)
	r := receive(t.Context(), t, b, "m1", "d")
	asked, err := b.Conn.SubscribeSync(streams.PolicyAsk("m1"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t, path)
	cfg.Machine, cfg.Interval = "m1", time.Hour
	start(t, cfg, b)
	until(t, "the first cut", func() bool { return r.hasCut(sumOf(t, path)) })
	if _, err := asked.NextMsg(2 * time.Minute); err != nil {
		t.Fatalf("the agent does not ask for its policy: %v", err)
	}
	change(t, path, 150, "in an hour, or now")
	changes, err := b.Conn.SubscribeSync(streams.ChangesSubject("m1", "d"))
	if err != nil {
		t.Fatal(err)
	}
	set := markers.Settings{Machine: "m1", Policy: "gold", PointInterval: 200 * time.Millisecond, CompressAt: "process-server"}
	text, err := set.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Conn.Publish(streams.PolicySet("m1"), text); err != nil {
		t.Fatal(err)
	}
	until(t, "a cut long before the hour", func() bool { return r.hasCut(sumOf(t, path)) })
	for {
		m, err := changes.NextMsg(2 * time.Minute)
		if err != nil {
			t.Fatalf("no block came: %v", err)
		}
		if m.Header.Get("Leeward-Kind") != "block" {
			continue
		}
		if got := m.Header.Get("Leeward-Codec"); got != "raw" {
			t.Errorf("the block is compressed with %s, which is left to the process server", got)
		}
		return
	}
}
