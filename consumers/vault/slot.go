package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// KeySlot is one way to open a vault.
type KeySlot struct {
	ID   string
	Kind string // "passphrase", "file" for a random key, "outer" for one that a service keeps, else "unknown"
	Name string // of the service's key
	Used bool   // the vault was opened with it
}

// slot is either kind of key slot; one of the pointers is set.
type slot struct {
	*format.Slot
	outer *format.OuterSlot
}

func (s slot) id() string {
	if s.outer != nil {
		return s.outer.ID
	}
	return s.ID
}

// newSlot wraps a vault's key and returns the slot's id and bytes.
func newSlot(ctx context.Context, id [16]byte, key seal.Key, k Key) (name string, b []byte, err error) {
	name = strings.ToLower(rand.Text()[:16])
	if k.wrapper != nil {
		b, err = newOuterSlot(ctx, name, id, key, k.wrapper)
		return name, b, err
	}
	s := &format.Slot{ID: name, Kind: format.SlotFile}
	rand.Read(s.Salt[:]) // never fails
	if k.random != nil {
		place := filePlace(id, s)
		s.Wrapped = k.random.Derive(s.Salt[:], place).Wrap(key, place)
		b, err = format.EncodeSlot(s)
		return name, b, err
	}
	cost := k.argon()
	s.Kind, s.Time, s.Memory, s.Threads = format.SlotPassphrase, cost.Time, cost.Memory, cost.Threads
	kek := cost.Stretch([]byte(k.passphrase), s.Salt[:])
	s.Wrapped = kek.Wrap(key, slotPlace(id, s))
	b, err = format.EncodeSlot(s)
	return name, b, err
}

func newOuterSlot(ctx context.Context, name string, id [16]byte, key seal.Key, w Wrapper) ([]byte, error) {
	kek := seal.NewKey()
	blob, err := w.Wrap(ctx, kek[:])
	if err != nil {
		return nil, fmt.Errorf("wrap with %s: %w", w.Name(), err)
	}
	s := &format.OuterSlot{ID: name, Name: w.Name(), Blob: blob}
	s.Wrapped = kek.Wrap(key, outerPlace(id, s))
	return format.EncodeOuterSlot(s)
}

func slotPlace(id [16]byte, s *format.Slot) seal.Place {
	return seal.NewPlace("leeward slot 1", id[:], s.Context())
}

func filePlace(id [16]byte, s *format.Slot) seal.Place {
	return seal.NewPlace("leeward file slot 1", id[:], s.Context())
}

func outerPlace(id [16]byte, s *format.OuterSlot) seal.Place {
	return seal.NewPlace("leeward outer slot 1", id[:], s.Context())
}

// open returns the vault's key if k opens the slot. An error is the service's.
func (s slot) open(ctx context.Context, id [16]byte, k Key) (key seal.Key, ok bool, err error) {
	switch {
	case s.outer != nil:
		if k.wrapper == nil || k.wrapper.Name() != s.outer.Name {
			return key, false, nil
		}
		b, err := k.wrapper.Unwrap(ctx, s.outer.Blob)
		if err == nil && len(b) != seal.KeySize {
			err = contradiction("it is a key of %d bytes", len(b))
		}
		if err != nil {
			return key, false, fmt.Errorf("unwrap slot %s with %s: %w", s.outer.ID, s.outer.Name, err)
		}
		key, err = seal.Key(b).Unwrap(s.outer.Wrapped, outerPlace(id, s.outer))
		return key, err == nil, nil
	case s.Kind == format.SlotFile && k.random != nil:
		place := filePlace(id, s.Slot)
		key, err = k.random.Derive(s.Salt[:], place).Unwrap(s.Wrapped, place)
		return key, err == nil, nil
	case s.Kind != format.SlotPassphrase || k.wrapper != nil:
		return key, false, nil
	}
	cost := seal.Argon{Time: s.Time, Memory: s.Memory, Threads: s.Threads}
	key, err = cost.Stretch([]byte(k.passphrase), s.Salt[:]).Unwrap(s.Wrapped, slotPlace(id, s.Slot))
	return key, err == nil, nil
}

// slotKeys lists the keys of the slots.
func slotKeys(ctx context.Context, st store.Store) (keys []string, err error) {
	err = st.List(ctx, slotPrefix, func(i store.Info) error {
		keys = append(keys, i.Key)
		return nil
	})
	return keys, err
}

// unlock tries k on every key slot, those that cost nothing first.
func unlock(ctx context.Context, st store.Store, id [16]byte, k Key) (key seal.Key, name string, err error) {
	keys, err := slotKeys(ctx, st)
	if err != nil {
		return key, "", err
	}
	var trouble error // a damaged slot matters only if no other one opens
	var slots []slot
	for _, at := range keys {
		s, err := readSlot(ctx, st, at)
		if err != nil {
			trouble = errors.Join(trouble, err)
			continue
		}
		slots = append(slots, s)
	}
	slices.SortStableFunc(slots, func(a, b slot) int { return cmp.Compare(a.cost(), b.cost()) })
	for _, s := range slots {
		key, ok, err := s.open(ctx, id, k)
		if ok {
			return key, s.id(), nil
		}
		trouble = errors.Join(trouble, err)
	}
	if trouble != nil {
		return key, "", trouble
	}
	if len(keys) == 0 {
		return key, "", &DamageError{Key: slotPrefix, What: "there is no key slot", Try: tryCheck}
	}
	return key, "", fmt.Errorf("%w: the %s opens none of the vault's %d key slots", ErrWrongKey, k.what(), len(keys))
}

// cost tells slots that take time from those that do not.
func (s slot) cost() int {
	if s.outer == nil && s.Kind == format.SlotPassphrase {
		return 1
	}
	return 0
}

func readSlot(ctx context.Context, st store.Store, name string) (s slot, err error) {
	b, err := st.Get(ctx, name, 0, -1)
	if err != nil {
		return s, err
	}
	if format.IsOuterSlot(b) {
		s.outer, err = format.DecodeOuterSlot(b)
	} else {
		s.Slot, err = format.DecodeSlot(b)
	}
	if err == nil && slotKey(s.id()) != name {
		err = contradiction("it says that it is slot %s", s.id())
	}
	return s, damaged(name, err)
}

// Keys returns the key slots, ascending by id, and an error for each that cannot be
// read.
func (v *Vault) Keys(ctx context.Context) ([]KeySlot, []error, error) {
	keys, err := slotKeys(ctx, v.st)
	if err != nil {
		return nil, nil, fmt.Errorf("list key slots: %w", err)
	}
	var slots []KeySlot
	var bad []error
	for _, at := range keys {
		s, err := readSlot(ctx, v.st, at)
		switch {
		case errors.Is(err, ErrNotFound): // removed since it was listed
		case errors.Is(err, ErrDamaged), errors.Is(err, ErrVersion):
			bad = append(bad, err)
		case err != nil:
			return nil, nil, fmt.Errorf("list key slots: %w", err)
		case s.outer != nil:
			slots = append(slots, KeySlot{ID: s.id(), Kind: "outer", Name: s.outer.Name, Used: s.id() == v.opened()})
		default:
			slots = append(slots, KeySlot{ID: s.id(), Kind: kindName(s.Kind), Used: s.id() == v.opened()})
		}
	}
	return slots, bad, nil
}

func kindName(k format.SlotKind) string {
	switch k {
	case format.SlotPassphrase:
		return "passphrase"
	case format.SlotFile:
		return "file"
	}
	return "unknown"
}

// opened returns the id of the slot that the vault was opened with.
func (v *Vault) opened() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.slot
}

// AddKey makes the vault open with k too, and returns the new slot's id.
func (v *Vault) AddKey(ctx context.Context, k Key) (id string, err error) {
	if err := k.check(); err != nil {
		return "", err
	}
	id, b, err := newSlot(ctx, v.id, v.key, k)
	if err == nil {
		err = v.st.Put(ctx, slotKey(id), b)
	}
	if err == nil {
		err = v.opens(ctx, id, k) // what is promised is read back: somebody will rely on it alone
	}
	if err != nil {
		return "", fmt.Errorf("add a key to the vault: %w", err)
	}
	return id, nil
}

func (v *Vault) opens(ctx context.Context, id string, k Key) error {
	s, err := readSlot(ctx, v.st, slotKey(id))
	if err != nil {
		return err
	}
	key, ok, err := s.open(ctx, v.id, k)
	if err == nil && (!ok || key != v.key) {
		err = damaged(slotKey(id), contradiction("the new slot does not open"))
	}
	return err
}

// RotateKey makes the vault open with k instead of the key it was opened with, and
// returns the new slot's id. The old slot goes only when the new one has been read
// back. The keys of the disks stay: who copied the old slot and knows its key can
// still open what was stored, so rotation is for keys that may become known, not for
// those that are.
func (v *Vault) RotateKey(ctx context.Context, k Key) (id string, err error) {
	if id, err = v.AddKey(ctx, k); err != nil {
		return "", err
	}
	old := v.opened()
	if err := v.st.Delete(ctx, slotKey(old)); err != nil {
		return id, fmt.Errorf("the vault opens with the new key, but still with the old one (slot %s) too: %w", old, err)
	}
	v.mu.Lock()
	v.slot = id
	v.mu.Unlock()
	return id, nil
}

// RemoveKey removes a key slot. It refuses, with ErrInvalid, to remove the one the
// vault was opened with: so one that is known to open always stays.
func (v *Vault) RemoveKey(ctx context.Context, id string) error {
	if id == v.opened() {
		return fmt.Errorf("remove key slot %s: %w: the vault was opened with it: open it with another key, or use rotate", id, ErrInvalid)
	}
	keys, err := slotKeys(ctx, v.st)
	if err == nil && !slices.Contains(keys, slotKey(id)) {
		err = fmt.Errorf("%w: list them with `leeward vault key ls`", ErrNotFound)
	}
	if err == nil {
		err = v.opensAtAll(ctx)
	}
	if err == nil {
		err = v.st.Delete(ctx, slotKey(id))
	}
	if err != nil {
		return fmt.Errorf("remove key slot %s: %w", id, err)
	}
	return nil
}

// opensAtAll makes sure that the slot in use is still there and intact.
func (v *Vault) opensAtAll(ctx context.Context) error {
	_, err := readSlot(ctx, v.st, slotKey(v.opened()))
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: the slot that the vault was opened with is gone, so nothing else is removed: open it anew", ErrInvalid)
	}
	return err
}
