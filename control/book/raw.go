package book

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
)

// Raw is a document of any kind, unread.
type Raw struct {
	Kind Kind
	Name string
	By   string
	Gone bool // somebody removed it; Value is empty
	// Value is the JSON document.
	Value json.RawMessage
}

// All reads all documents that the book has or had, by kind and name. One that is
// neither here nor Gone was never in this bucket.
func (b *Book) All(ctx context.Context) ([]Raw, error) {
	w, err := b.kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("read bucket %s: %w", streams.Book, err)
	}
	defer func() { _ = w.Stop() }() // the end of ctx may have stopped it already
	var all []Raw
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("read bucket %s: the watch ended", streams.Book)
			}
			if e == nil { // that was all
				return all, nil
			}
			kind, name, _ := strings.Cut(e.Key(), ".")
			r := Raw{Kind: Kind(kind), Name: name, Gone: e.Operation() != jetstream.KeyValuePut}
			if !r.Gone {
				var s stored
				if err := json.Unmarshal(e.Value(), &s); err != nil {
					return nil, fmt.Errorf("%s %s in bucket %s is unreadable: %w", kind, name, streams.Book, err)
				}
				r.By, r.Value = s.By, s.Value
			}
			all = append(all, r)
		case <-ctx.Done():
			return nil, fmt.Errorf("read bucket %s: %w", streams.Book, ctx.Err())
		}
	}
}

// Restore writes a document that the book lost. It returns ErrChanged if there is one
// of that name by now.
func (b *Book) Restore(ctx context.Context, r Raw) error {
	_, err := b.Put(ctx, r.Kind, r.Name, r.Value, r.By, New)
	if err != nil && !errors.Is(err, ErrChanged) {
		return fmt.Errorf("restore: %w", err)
	}
	return err
}
