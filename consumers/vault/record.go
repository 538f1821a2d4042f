package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Record is one version of a document that control must still have when everything but
// the vault is lost: what operators decided, and the history of jobs. The vault does
// not look into it.
type Record struct {
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Version uint64    `json:"version"` // 1 or more; the highest counts
	Time    time.Time `json:"time"`    // when this version was written here
	By      string    `json:"by,omitempty"`
	Gone    bool      `json:"gone,omitempty"` // the document was removed
	Value   []byte    `json:"value,omitempty"`
}

// MaxRecord is the largest value of a record in bytes.
const MaxRecord = format.MaxRecord

// PutRecord writes a version of a record. It returns ErrExists if the vault has that
// version, and ErrInvalid if the names or the value cannot be kept.
func (v *Vault) PutRecord(ctx context.Context, r *Record) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("put record %s %s: %w", r.Kind, r.Name, err)
	}
	plain, err := format.EncodeRecord(&format.Record{Time: r.Time.UnixNano(), By: r.By, Gone: r.Gone, Value: r.Value})
	if err != nil {
		return fmt.Errorf("put record %s %s: %w: %w", r.Kind, r.Name, ErrInvalid, err)
	}
	key := recordKey(r.Kind, r.Name, r.Version)
	b := v.sealed(&recordForm, key, plain)
	if err := v.st.Put(ctx, key, b); err != nil {
		return fmt.Errorf("put record: %w", err)
	}
	return nil
}

func (r *Record) check() error {
	if err := validName("kind", r.Kind); err != nil {
		return err
	}
	if err := validName("record", r.Name); err != nil {
		return err
	}
	if r.Version == 0 {
		return invalid("version 0: versions count from 1")
	}
	return nil
}

// Records returns the newest version of every record that can be read, also of those
// that are gone, by kind and name, and an error for each version that cannot be read
// although it counts: then an older one stands for it, if there is one.
func (v *Vault) Records(ctx context.Context) ([]Record, []error, error) {
	versions, err := v.recordKeys(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list records: %w", err)
	}
	var out []Record
	var bad []error
	for _, of := range versions {
		for _, key := range slices.Backward(of) {
			r, err := v.openRecord(ctx, key)
			if err == nil {
				kind, name, version, _ := parseRecordKey(key)
				out = append(out, *recordOf(kind, name, version, r))
				break
			}
			switch {
			case errors.Is(err, ErrDamaged), errors.Is(err, ErrVersion):
				bad = append(bad, err)
			case !errors.Is(err, ErrNotFound): // dropped since it was listed
				return nil, nil, fmt.Errorf("read records: %w", err)
			}
		}
	}
	return out, bad, nil
}

// DropRecords removes all but the newest keep versions of every record, 1 or more.
func (v *Vault) DropRecords(ctx context.Context, keep int) error {
	versions, err := v.recordKeys(ctx)
	if err != nil {
		return fmt.Errorf("list records: %w", err)
	}
	for _, of := range versions {
		for _, key := range of[:max(0, len(of)-max(keep, 1))] {
			if err := v.st.Delete(ctx, key); err != nil && !errors.Is(err, ErrNotFound) {
				return fmt.Errorf("drop an old record: %w", err)
			}
		}
	}
	return nil
}

// recordKeys returns the keys of the versions of each record, ascending.
func (v *Vault) recordKeys(ctx context.Context) (all [][]string, err error) {
	kind, name := "", ""
	err = v.st.List(ctx, recordPrefix, func(i store.Info) error {
		k, n, _, ok := parseRecordKey(i.Key)
		if !ok {
			return nil
		}
		if k != kind || n != name || all == nil {
			all, kind, name = append(all, nil), k, n
		}
		all[len(all)-1] = append(all[len(all)-1], i.Key)
		return nil
	})
	return all, err
}

func (v *Vault) openRecord(ctx context.Context, key string) (*format.Record, error) {
	plain, err := v.unsealed(ctx, &recordForm, key)
	if err != nil {
		return nil, err
	}
	r, err := format.DecodeRecord(plain)
	return r, damaged(key, err)
}

func recordOf(kind, name string, version uint64, r *format.Record) *Record {
	return &Record{Kind: kind, Name: name, Version: version, Time: fromNano(r.Time), By: r.By, Gone: r.Gone, Value: r.Value}
}
