package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
)

// KeySize is the size of every key in bytes.
const KeySize = 32

// Overhead is what a seal adds in bytes.
const Overhead = 16

const nonceSize = 12

// ErrOpen means that sealed bytes are not what was sealed here with this key.
var ErrOpen = errors.New("seal is broken: wrong key, damaged or misplaced")

// Key is a secret.
type Key [KeySize]byte

// String keeps a key out of logs.
func (Key) String() string { return "secret" }

// GoString keeps a key out of logs.
func (Key) GoString() string { return "secret" }

// NewKey returns a random key.
func NewKey() (k Key) {
	rand.Read(k[:]) // never fails
	return k
}

// Place says where sealed bytes belong, see the package comment.
type Place []byte

// NewPlace returns the place of a word and fields.
func NewPlace(word string, fields ...[]byte) Place {
	p := binary.AppendUvarint(nil, uint64(len(word)))
	p = append(p, word...)
	for _, f := range fields {
		p = binary.AppendUvarint(p, uint64(len(f)))
		p = append(p, f...)
	}
	return p
}

// Derive returns the key for place under k.
func (k Key) Derive(salt []byte, place Place) Key {
	b, err := hkdf.Key(sha256.New, k[:], salt, string(place), KeySize)
	if err != nil {
		panic(err) // only for lengths that are constant here
	}
	return Key(b)
}

func (k Key) aead() cipher.AEAD {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // only for key sizes that are constant here
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // only for block sizes that are constant here
	}
	return a
}

// WrappedSize is the size of a wrapped key in bytes.
const WrappedSize = nonceSize + KeySize + Overhead

// Wrap seals secret with k.
func (k Key) Wrap(secret Key, place Place) (w [WrappedSize]byte) {
	rand.Read(w[:nonceSize])
	k.aead().Seal(w[:nonceSize], w[:nonceSize], secret[:], place)
	return w
}

// Unwrap opens what Wrap returned, or returns ErrOpen.
func (k Key) Unwrap(w [WrappedSize]byte, place Place) (secret Key, err error) {
	b, err := k.aead().Open(nil, w[:nonceSize], w[nonceSize:], place)
	if err != nil {
		return secret, ErrOpen
	}
	return Key(b), nil
}

// Argon says how dear it is to guess a passphrase.
type Argon struct {
	Time    uint32 // passes
	Memory  uint32 // KiB
	Threads uint8
}

// DefaultArgon is the second recommendation of RFC 9106.
var DefaultArgon = Argon{Time: 3, Memory: 64 << 10, Threads: 4}

// Stretch turns a passphrase into a key. The caller has checked a.
func (a Argon) Stretch(passphrase, salt []byte) Key {
	return Key(argon2.IDKey(passphrase, salt, a.Time, a.Memory, a.Threads, KeySize))
}

// Kind tells the parts of an object apart.
type Kind byte

// The kinds of part.
const (
	Frame   Kind = 1
	Sums    Kind = 2
	Index   Kind = 3
	Trailer Kind = 4
	Point   Kind = 5
	Pin     Kind = 6

	MapPage      Kind = 7
	MapSources   Kind = 8
	MapDirectory Kind = 9

	Record Kind = 10
)

// Box seals the parts of one object. It may be used from many goroutines.
type Box struct {
	aead  cipher.AEAD
	place Place
}

// NewBox returns the box for the object at place, whose salt nobody used before.
func (k Key) NewBox(salt []byte, place Place) *Box {
	return &Box{aead: k.Derive(salt, place).aead(), place: place}
}

func (b *Box) bind(kind Kind, ordinal uint64, clear []byte) (nonce [nonceSize]byte, aad []byte) {
	nonce[0] = byte(kind)
	binary.BigEndian.PutUint64(nonce[4:], ordinal)
	aad = make([]byte, 0, len(b.place)+9+len(clear))
	aad = append(aad, b.place...)
	aad = append(aad, byte(kind))
	aad = binary.BigEndian.AppendUint64(aad, ordinal)
	return nonce, append(aad, clear...)
}

// SealTail seals the bytes of buf from start on, in place, and returns buf with the
// tag behind them. A part may be sealed once only.
func (b *Box) SealTail(buf []byte, start int, kind Kind, ordinal uint64, clear []byte) []byte {
	nonce, aad := b.bind(kind, ordinal, clear)
	return b.aead.Seal(buf[:start], nonce[:], buf[start:], aad)
}

// Open opens a part in place: it overwrites sealed. It returns ErrOpen if the part
// is not what was sealed here.
func (b *Box) Open(sealed []byte, kind Kind, ordinal uint64, clear []byte) ([]byte, error) {
	nonce, aad := b.bind(kind, ordinal, clear)
	plain, err := b.aead.Open(sealed[:0], nonce[:], sealed, aad)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, ErrOpen)
	}
	return plain, nil
}

// String names the part for people.
func (k Kind) String() string {
	switch k {
	case Frame:
		return "frame"
	case Sums:
		return "sums"
	case Index:
		return "index"
	case Trailer:
		return "trailer"
	case Point:
		return "record"
	case Pin:
		return "pin"
	case Record:
		return "document"
	case MapPage:
		return "page"
	case MapSources:
		return "sources"
	case MapDirectory:
		return "directory"
	}
	return fmt.Sprintf("part %d", byte(k))
}
