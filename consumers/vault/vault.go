package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/place"
)

// Vault is an open vault. Its methods may be called from many goroutines.
type Vault struct {
	id    [16]byte
	st    store.Store
	key   seal.Key // of the vault
	wrap  seal.Key // wraps disk keys
	codec codec

	fan     int         // see mapFan
	buffers chan []byte // for whole segments on their way to the store

	mu       sync.Mutex
	slot     string                // mu guards: id of the key slot it was opened with
	diskKeys map[DiskID]seal.Key   // mu guards
	near     map[DiskID]segmentRef // mu guards: the segment that Cut found last
}

// codec packs indexes and unpacks frames. Both parts may be used concurrently.
type codec struct {
	*zstd.Encoder
	*zstd.Decoder
}

// DecodeAll unpacks into the room behind dst, never more.
func (c codec) DecodeAll(src, dst []byte) ([]byte, error) { return c.Decoder.DecodeAll(src, dst) }

func newCodec() (codec, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return codec{}, fmt.Errorf("prepare zstd: %w", err)
	}
	// A limit of the room given keeps a forged frame from growing in memory.
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(format.MaxIndex))
	if err != nil {
		return codec{}, fmt.Errorf("prepare zstd: %w", err)
	}
	return codec{e, d}, nil
}

// StoreURLs is the forms of a store's URL, for people.
const StoreURLs = place.Help

// OpenStore opens the store a URL names; see package place for the forms. With create
// it makes what is missing.
func OpenStore(url string, create bool) (store.Store, error) { return place.Open(url, create) }

// Create makes a vault in a store that holds none, and opens it. It returns
// ErrExists if there is one, also if that happens at the same time.
func Create(ctx context.Context, st store.Store, k Key) (*Vault, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	if _, err := st.Stat(ctx, markerKey); err == nil {
		return nil, existingVault(st)
	} else if !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("create vault: %w", err)
	}
	var id [16]byte
	rand.Read(id[:]) // never fails
	key := seal.NewKey()
	slot, b, err := newSlot(ctx, id, key, k)
	if err != nil {
		return nil, fmt.Errorf("create vault: %w", err)
	}
	// The slot first: a vault that can be seen can be opened. A slot left behind by a
	// crash or a lost race belongs to no vault id and opens nothing.
	if err := st.Put(ctx, slotKey(slot), b); err != nil {
		return nil, fmt.Errorf("create vault: %w", err)
	}
	if err := st.Put(ctx, markerKey, format.EncodeMarker(id)); err != nil {
		if errors.Is(err, ErrExists) {
			return nil, existingVault(st)
		}
		return nil, fmt.Errorf("create vault: %w", err)
	}
	return newVault(st, id, key, slot)
}

func existingVault(st store.Store) error {
	return fmt.Errorf("%s holds a vault: %w", st.URL(), ErrExists)
}

// Unlock opens a vault. (Open is the record of a chain's first link.) It returns
// ErrNotVault, ErrWrongKey, ErrVersion or ErrDamaged.
func Unlock(ctx context.Context, st store.Store, k Key) (*Vault, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	b, err := st.Get(ctx, markerKey, 0, -1)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%s is %w: it has no %s: is this the right place? create one with `leeward vault init`", st.URL(), ErrNotVault, markerKey)
	}
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	id, err := format.DecodeMarker(b)
	if err != nil {
		return nil, fmt.Errorf("open vault in %s: %w", st.URL(), damaged(markerKey, err))
	}
	key, slot, err := unlock(ctx, st, id, k)
	if err != nil {
		return nil, fmt.Errorf("open vault in %s: %w", st.URL(), err)
	}
	return newVault(st, id, key, slot)
}

func newVault(st store.Store, id [16]byte, key seal.Key, slot string) (*Vault, error) {
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	return &Vault{
		id: id, st: st, key: key, slot: slot, codec: c, fan: mapFan,
		buffers:  make(chan []byte, maxBuffers),
		wrap:     key.Derive(nil, seal.NewPlace("leeward wrap disk keys")),
		diskKeys: map[DiskID]seal.Key{},
		near:     map[DiskID]segmentRef{},
	}, nil
}

// ID returns the vault's id: 32 hex digits.
func (v *Vault) ID() string { return hex.EncodeToString(v.id[:]) }

// Store returns where the vault is.
func (v *Vault) Store() store.Store { return v.st }

// diskKey returns a disk's key, or ErrNotFound if it has none yet.
func (v *Vault) diskKey(ctx context.Context, d DiskID) (seal.Key, error) {
	if err := d.check(); err != nil {
		return seal.Key{}, err
	}
	v.mu.Lock()
	key, ok := v.diskKeys[d]
	v.mu.Unlock()
	if ok {
		return key, nil
	}
	key, err := v.readDiskKey(ctx, d)
	if err != nil {
		return seal.Key{}, err
	}
	v.mu.Lock()
	v.diskKeys[d] = key
	v.mu.Unlock()
	return key, nil
}

func (v *Vault) readDiskKey(ctx context.Context, d DiskID) (seal.Key, error) {
	name := diskKeyKey(d)
	b, err := v.st.Get(ctx, name, 0, -1)
	if err != nil {
		return seal.Key{}, fmt.Errorf("key of disk %s: %w", d, err)
	}
	w, err := format.DecodeDiskKey(b)
	if err != nil {
		return seal.Key{}, damaged(name, err)
	}
	key, err := v.wrap.Unwrap(w, v.diskKeyPlace(d))
	if err != nil {
		return seal.Key{}, damaged(name, err)
	}
	return key, nil
}

// makeDiskKey returns the disk's key and makes it if it has none. Of two writers
// who make one, both use the winner's.
func (v *Vault) makeDiskKey(ctx context.Context, d DiskID) (seal.Key, error) {
	key, err := v.diskKey(ctx, d)
	if !errors.Is(err, ErrNotFound) {
		return key, err
	}
	w := v.wrap.Wrap(seal.NewKey(), v.diskKeyPlace(d))
	if err := v.st.Put(ctx, diskKeyKey(d), format.EncodeDiskKey(w)); err != nil && !errors.Is(err, ErrExists) {
		return seal.Key{}, fmt.Errorf("make key of disk %s: %w", d, err)
	}
	return v.diskKey(ctx, d)
}

func (v *Vault) diskKeyPlace(d DiskID) seal.Place {
	return seal.NewPlace("leeward disk key 1", v.id[:], []byte(d.Machine), []byte(d.Disk))
}

// Disks returns the disks the vault has a history of, ascending.
func (v *Vault) Disks(ctx context.Context) ([]DiskID, error) {
	var disks []DiskID
	err := v.st.List(ctx, diskKeyPrefix, func(i store.Info) error {
		if d, ok := parseDiskKeyKey(i.Key); ok {
			disks = append(disks, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	return disks, nil
}
