package vault

import (
	"context"
	"crypto/rand"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
)

// form is a kind of object that is a header with a salt and one sealed part.
type form struct {
	place  string
	kind   seal.Kind
	header func(b []byte, salt [format.SaltSize]byte) []byte
	split  func(b []byte) (header []byte, salt [format.SaltSize]byte, sealed []byte, err error)
}

var (
	pointForm  = form{"leeward point 1", seal.Point, format.AppendPointHeader, format.SplitPoint}
	pinForm    = form{"leeward pin 1", seal.Pin, format.AppendPinHeader, format.SplitPin}
	recordForm = form{"leeward record 1", seal.Record, format.AppendRecordHeader, format.SplitRecord}
)

func (v *Vault) box(f *form, key string, salt [format.SaltSize]byte) *seal.Box {
	return v.key.NewBox(salt[:], seal.NewPlace(f.place, v.id[:], []byte(key)))
}

// sealed returns the object for key with what plain says.
func (v *Vault) sealed(f *form, key string, plain []byte) []byte {
	var salt [format.SaltSize]byte
	rand.Read(salt[:]) // never fails
	header := f.header(nil, salt)
	b := append(f.header(nil, salt), plain...)
	return v.box(f, key, salt).SealTail(b, len(header), f.kind, 0, header)
}

// unsealed reads the object at key and opens it.
func (v *Vault) unsealed(ctx context.Context, f *form, key string) ([]byte, error) {
	b, err := v.st.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	header, salt, sealed, err := f.split(b)
	if err != nil {
		return nil, damaged(key, err)
	}
	plain, err := v.box(f, key, salt).Open(sealed, f.kind, 0, header)
	return plain, damaged(key, err)
}
