package book

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
)

// Kind is a kind of document.
type Kind string

// The kinds.
const (
	Group  Kind = "group"
	Policy Kind = "policy"
	Plan   Kind = "plan"
	Run    Kind = "run"    // of a plan
	Notify Kind = "notify" // where notifications go
	Drill  Kind = "drill"
	// Drilled is the state of the drill of the same name.
	Drilled Kind = "drilled"
	Report  Kind = "report" // of a drill
	Life    Kind = "life"   // of a machine: protected, failed over, …
	Joint   Kind = "joint"  // what machines that are failed over together have decided
)

// Errors of this package, for errors.Is.
var (
	ErrNotFound = errors.New("no such document")
	// ErrChanged means that somebody else changed the document meanwhile.
	ErrChanged = errors.New("somebody else changed it meanwhile")
)

// Any is the version to give to Put when it does not matter which one is replaced,
// and New when there must be none.
const (
	Any uint64 = 1<<64 - 1
	New uint64 = 0
)

// Entry is one version of a document.
type Entry[T any] struct {
	Name    string    `json:"name"`
	Version uint64    `json:"version"` // grows with every change; not by one
	Changed time.Time `json:"changed"`
	By      string    `json:"by,omitempty"`
	Value   T         `json:"value"`
}

// stored is what stands in the bucket.
type stored struct {
	By    string          `json:"by,omitempty"`
	Value json.RawMessage `json:"value"`
}

// Book is an open book. It may be used by many goroutines.
type Book struct{ kv jetstream.KeyValue }

// Open opens the bucket, which streams.Ensure makes.
func Open(ctx context.Context, js jetstream.JetStream) (*Book, error) {
	kv, err := js.KeyValue(ctx, streams.Book)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", streams.Book, err)
	}
	return &Book{kv}, nil
}

func key(k Kind, name string) (string, error) {
	if err := streams.ValidName(string(k), name); err != nil {
		return "", err
	}
	return string(k) + "." + name, nil
}

// Put writes a document over the version that its writer has seen, Any or New, and
// returns the version that it has now.
func (b *Book) Put(ctx context.Context, k Kind, name string, v any, by string, seen uint64) (uint64, error) {
	key, err := key(k, name)
	if err != nil {
		return 0, err
	}
	value, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("write %s %s: %w", k, name, err)
	}
	doc, err := json.Marshal(stored{by, value})
	if err != nil {
		return 0, fmt.Errorf("write %s %s: %w", k, name, err)
	}
	var rev uint64
	switch seen {
	case Any:
		rev, err = b.kv.Put(ctx, key, doc)
	case New:
		rev, err = b.kv.Create(ctx, key, doc)
	default:
		rev, err = b.kv.Update(ctx, key, doc, seen)
	}
	if conflict(err) {
		err = ErrChanged
	}
	if err != nil {
		return 0, fmt.Errorf("write %s %s: %w", k, name, err)
	}
	return rev, nil
}

func conflict(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// Delete removes a document; its versions stay.
func (b *Book) Delete(ctx context.Context, k Kind, name string) error {
	key, err := key(k, name)
	if err != nil {
		return err
	}
	if _, err := b.kv.Get(ctx, key); err != nil {
		return missing(k, name, err)
	}
	if err := b.kv.Delete(ctx, key); err != nil {
		return fmt.Errorf("remove %s %s: %w", k, name, err)
	}
	return nil
}

func missing(k Kind, name string, err error) error {
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("%w: %s %s", ErrNotFound, k, name)
	}
	return fmt.Errorf("read %s %s: %w", k, name, err)
}

// Get reads a document.
func Get[T any](ctx context.Context, b *Book, k Kind, name string) (Entry[T], error) {
	var none Entry[T]
	key, err := key(k, name)
	if err != nil {
		return none, err
	}
	e, err := b.kv.Get(ctx, key)
	if err != nil {
		return none, missing(k, name, err)
	}
	return entry[T](e)
}

// Versions reads all versions of a document that the bucket still has, the oldest
// first.
func Versions[T any](ctx context.Context, b *Book, k Kind, name string) ([]Entry[T], error) {
	key, err := key(k, name)
	if err != nil {
		return nil, err
	}
	all, err := b.kv.History(ctx, key)
	if err != nil {
		return nil, missing(k, name, err)
	}
	var out []Entry[T]
	for _, e := range all {
		if e.Operation() != jetstream.KeyValuePut {
			continue
		}
		v, err := entry[T](e)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// List reads all documents of a kind by name.
func List[T any](ctx context.Context, b *Book, k Kind) ([]Entry[T], error) {
	w, err := b.kv.Watch(ctx, string(k)+".*", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list %ss: %w", k, err)
	}
	defer func() { _ = w.Stop() }() // the end of ctx may have stopped it already
	all := map[string]Entry[T]{}
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("list %ss: the watch ended", k)
			}
			if e == nil { // that was all
				var out []Entry[T]
				for _, name := range slices.Sorted(maps.Keys(all)) {
					out = append(out, all[name])
				}
				return out, nil
			}
			v, err := entry[T](e)
			if err != nil {
				return nil, err
			}
			all[v.Name] = v
		case <-ctx.Done():
			return nil, fmt.Errorf("list %ss: %w", k, ctx.Err())
		}
	}
}

// Watch calls changed now and after every change of a document of the kinds, until
// the returned function is called; without kinds, of any. Changes that follow each other closely may be one
// call.
func (b *Book) Watch(ctx context.Context, changed func(), kinds ...Kind) (stop func(), err error) {
	w, err := b.kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch bucket %s: %w", streams.Book, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ready := false
		for e := range w.Updates() {
			if e == nil {
				ready = true
				changed()
				continue
			}
			kind, _, _ := strings.Cut(e.Key(), ".")
			if ready && (len(kinds) == 0 || slices.Contains(kinds, Kind(kind))) {
				changed()
			}
		}
	}()
	return func() {
		_ = w.Stop()
		<-done
	}, nil
}

func entry[T any](e jetstream.KeyValueEntry) (Entry[T], error) {
	kind, name, _ := strings.Cut(e.Key(), ".")
	out := Entry[T]{Name: name, Version: e.Revision(), Changed: e.Created().UTC()}
	var s stored
	err := json.Unmarshal(e.Value(), &s)
	if err == nil {
		err = json.Unmarshal(s.Value, &out.Value)
	}
	if err != nil {
		return out, fmt.Errorf("%s %s in bucket %s is unreadable: %w", kind, name, streams.Book, err)
	}
	out.By = s.By
	return out, nil
}
