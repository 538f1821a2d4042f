package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

const (
	slotMagic    = "LWSLOT\r\n"
	outerMagic   = "LWXSLOT\n"
	diskKeyMagic = "LWDKEY\r\n"
	markerFormat = "leeward-vault"
)

// WrappedSize is the size of a wrapped key in bytes: nonce, key, tag.
const WrappedSize = 12 + 32 + 16

// Marker is vault.json: it says that the objects beside it are a vault.
type Marker struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	ID      string `json:"id"`
	Check   string `json:"check"`
}

// EncodeMarker returns the bytes of vault.json for a vault's id of 16 bytes.
func EncodeMarker(id [16]byte) []byte {
	m := Marker{Format: markerFormat, Version: Version, ID: hex.EncodeToString(id[:])}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", m.Format, m.Version, m.ID))
	m.Check = hex.EncodeToString(sum[:8])
	b, _ := json.Marshal(m) // strings and a number cannot fail
	return append(b, '\n')
}

// DecodeMarker reads vault.json.
func DecodeMarker(b []byte) (id [16]byte, err error) {
	var m Marker
	if err := json.Unmarshal(b, &m); err != nil {
		return id, malformed("%v", err)
	}
	if m.Format != markerFormat {
		return id, malformed("format is %q, want %q", m.Format, markerFormat)
	}
	if m.Version != Version {
		return id, fmt.Errorf("%w %d: this program reads version %d, use the one that wrote it", ErrVersion, m.Version, Version)
	}
	raw, err := hex.DecodeString(m.ID)
	if err != nil || len(raw) != len(id) {
		return id, malformed("id %q is not 32 hex digits", m.ID)
	}
	copy(id[:], raw)
	if !bytes.Equal(b, EncodeMarker(id)) {
		return id, malformed("check does not fit the rest")
	}
	return id, nil
}

// SlotKind tells what a slot's key is wrapped with.
type SlotKind uint8

// The kinds of slot. A reader passes over slots of a kind it does not know.
const (
	SlotPassphrase SlotKind = 1 // wraps with Argon2id of a passphrase
	SlotOuter      SlotKind = 2 // wraps with a key that a service keeps: see OuterSlot
	SlotFile       SlotKind = 3 // wraps with HKDF of a random key, as key files have one
)

// Slot is one way to the vault key.
type Slot struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	ID      string
	Kind    SlotKind
	Time    uint32 // Argon2id passes; this and the next two are 0 where there is no passphrase
	Memory  uint32 // Argon2id memory in KiB
	Threads uint8  // Argon2id lanes
	Salt    [SaltSize]byte
	Wrapped [WrappedSize]byte
}

// Context returns what the slot's seal is bound to beside the vault: all but Wrapped.
func (s *Slot) Context() []byte {
	c := *s
	c.Wrapped = [WrappedSize]byte{}
	b, _ := encode(&c) // plain fields cannot fail
	return b
}

// EncodeSlot returns the bytes of a key slot.
func EncodeSlot(s *Slot) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return appendSlot(slotMagic, s)
}

func appendSlot(magic string, s any) ([]byte, error) {
	body, err := encode(s)
	if err != nil {
		return nil, err
	}
	b := appendMagic(nil, magic)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return appendCRC(append(b, body...)), nil
}

// slotBody returns what stands between length and checksum.
func slotBody(b []byte, magic string) ([]byte, error) {
	rest, err := checkMagic(b, magic)
	if err != nil {
		return nil, err
	}
	if _, err := checkCRC(b); err != nil {
		return nil, err
	}
	rest = rest[:max(0, len(rest)-4)]
	if len(rest) < 2 || int(binary.BigEndian.Uint16(rest)) != len(rest)-2 {
		return nil, malformed("key slot of %d bytes", len(b))
	}
	return rest[2:], nil
}

// DecodeSlot reads a key slot.
func DecodeSlot(b []byte) (*Slot, error) {
	body, err := slotBody(b, slotMagic)
	if err != nil {
		return nil, err
	}
	s := new(Slot)
	if err := decode(body, s); err != nil {
		return nil, fmt.Errorf("key slot: %w", err)
	}
	return s, s.check()
}

// OuterSlot is a way to the vault key for who may use a key of some service: Blob is
// a random key that the service has wrapped, and that key wraps the vault's.
type OuterSlot struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	ID      string
	Name    string // of the service's key, such as its URL
	Blob    []byte
	Wrapped [WrappedSize]byte
}

// IsOuterSlot tells which of the two kinds of slot b looks like.
func IsOuterSlot(b []byte) bool { return bytes.HasPrefix(b, []byte(outerMagic)) }

// Context returns what the slot's seal is bound to beside the vault: all but Wrapped.
func (s *OuterSlot) Context() []byte {
	c := *s
	c.Wrapped = [WrappedSize]byte{}
	b, _ := encode(&c) // plain fields cannot fail
	return b
}

// EncodeOuterSlot returns the bytes of an outer key slot.
func EncodeOuterSlot(s *OuterSlot) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return appendSlot(outerMagic, s)
}

// DecodeOuterSlot reads an outer key slot.
func DecodeOuterSlot(b []byte) (*OuterSlot, error) {
	body, err := slotBody(b, outerMagic)
	if err != nil {
		return nil, err
	}
	s := new(OuterSlot)
	if err := decode(body, s); err != nil {
		return nil, fmt.Errorf("key slot: %w", err)
	}
	return s, s.check()
}

func (s *OuterSlot) check() error {
	if len(s.Blob) == 0 || len(s.Blob) > MaxText {
		return malformed("wrapped key of %d bytes, want 1 to %d", len(s.Blob), MaxText)
	}
	return checkText(s.ID, s.Name)
}

// check keeps a forged slot from costing more memory or time than a vault is worth.
func (s *Slot) check() error {
	if err := checkText(s.ID); err != nil {
		return err
	}
	if s.Kind == SlotFile && (s.Time != 0 || s.Memory != 0 || s.Threads != 0) {
		return malformed("key slot of a key file asks for Argon2id")
	}
	if s.Kind != SlotPassphrase {
		return nil
	}
	if s.Time == 0 || s.Time > 64 || s.Memory < 8*uint32(s.Threads) || s.Memory > 4<<20 || s.Threads == 0 || s.Threads > 64 {
		return malformed("key slot asks for Argon2id with %d passes, %d KiB, %d threads", s.Time, s.Memory, s.Threads)
	}
	return nil
}

// EncodeDiskKey returns the bytes of a wrapped disk key.
func EncodeDiskKey(wrapped [WrappedSize]byte) []byte {
	return appendCRC(append(appendMagic(nil, diskKeyMagic), wrapped[:]...))
}

// DecodeDiskKey reads a wrapped disk key.
func DecodeDiskKey(b []byte) (wrapped [WrappedSize]byte, err error) {
	rest, err := checkMagic(b, diskKeyMagic)
	if err != nil {
		return wrapped, err
	}
	if _, err := checkCRC(b); err != nil {
		return wrapped, err
	}
	if len(rest) != WrappedSize+4 {
		return wrapped, malformed("disk key of %d bytes", len(b))
	}
	copy(wrapped[:], rest)
	return wrapped, nil
}
