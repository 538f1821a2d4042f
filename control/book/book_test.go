package book

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

type doc struct {
	Text string `json:"text"`
}

func open(t *testing.T) (*Book, context.Context) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	bus := streamstest.Start(t)
	b, err := Open(ctx, bus.JS)
	if err != nil {
		t.Fatal(err)
	}
	return b, ctx
}

func TestVersionsAndConflicts(t *testing.T) {
	b, ctx := open(t)
	if _, err := Get[doc](ctx, b, Plan, "site"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("nothing there: %v", err)
	}
	one, err := b.Put(ctx, Plan, "site", doc{"one"}, "ann", New)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(ctx, Plan, "site", doc{"other"}, "bob", New); !errors.Is(err, ErrChanged) {
		t.Errorf("made twice: %v", err)
	}
	two, err := b.Put(ctx, Plan, "site", doc{"two"}, "bob", one)
	if err != nil || two <= one {
		t.Fatalf("version %d after %d, %v", two, one, err)
	}
	if _, err := b.Put(ctx, Plan, "site", doc{"late"}, "ann", one); !errors.Is(err, ErrChanged) {
		t.Errorf("written over a version that is not the newest: %v", err)
	}
	e, err := Get[doc](ctx, b, Plan, "site")
	if err != nil || e.Value.Text != "two" || e.By != "bob" || e.Version != two || time.Since(e.Changed) > time.Minute {
		t.Errorf("read %+v, %v", e, err)
	}
	all, err := Versions[doc](ctx, b, Plan, "site")
	if err != nil || len(all) != 2 || all[0].Value.Text != "one" || all[1].By != "bob" {
		t.Errorf("versions %+v, %v", all, err)
	}
	if err := b.Delete(ctx, Plan, "site"); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(ctx, Plan, "site"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := b.Put(ctx, Plan, "site", doc{"again"}, "", New); err != nil {
		t.Errorf("made again after it was removed: %v", err)
	}
	if _, err := b.Put(ctx, Plan, "a.b", doc{}, "", Any); err == nil {
		t.Error("a name with a dot was taken")
	}
}

func TestListAndWatch(t *testing.T) {
	b, ctx := open(t)
	calls := make(chan struct{}, 100)
	stop, err := b.Watch(ctx, func() { calls <- struct{}{} }, Group)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	<-calls // at once
	for _, n := range []string{"web", "db", "app"} {
		if _, err := b.Put(ctx, Group, n, doc{n}, "", Any); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Put(ctx, Policy, "other", doc{}, "", Any); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		select {
		case <-calls:
		case <-ctx.Done():
			t.Fatal("a change was not told")
		}
	}
	if err := b.Delete(ctx, Group, "db"); err != nil {
		t.Fatal(err)
	}
	<-calls
	all, err := List[doc](ctx, b, Group)
	if err != nil || len(all) != 2 || all[0].Name != "app" || all[1].Value.Text != "web" {
		t.Errorf("list %+v, %v", all, err)
	}
	if none, err := List[doc](ctx, b, Run); err != nil || len(none) != 0 {
		t.Errorf("no documents: %+v, %v", none, err)
	}
	select {
	case <-calls:
		t.Error("told of another kind")
	default:
	}
	_ = streams.Book
}
