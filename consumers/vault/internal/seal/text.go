package seal

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"strings"
)

const textPrefix = "LWKEY1-"

// ErrText means that a text looks like a key's, and is not one.
var ErrText = errors.New("it begins like a key, but is cut off or mistyped")

var textual = base32.StdEncoding.WithPadding(base32.NoPadding)

func textCheck(k Key) string {
	sum := sha256.Sum256(append([]byte("leeward key file 1"), k[:]...))
	return textual.EncodeToString(sum[:5])
}

// Text returns the key as a key file has it. It is a secret.
func (k Key) Text() string { return textPrefix + textual.EncodeToString(k[:]) + "-" + textCheck(k) }

// ParseText reads what Text returned. ok is false if s is some other text, a
// passphrase perhaps; ErrText says that it was meant to be a key.
func ParseText(s string) (k Key, ok bool, err error) {
	rest, ok := strings.CutPrefix(s, textPrefix)
	if !ok {
		return k, false, nil
	}
	digits, check, _ := strings.Cut(rest, "-")
	b, err := textual.DecodeString(digits)
	if err != nil || len(b) != KeySize {
		return Key{}, true, ErrText
	}
	if k = Key(b); k.Text() != s || check != textCheck(k) {
		return Key{}, true, ErrText
	}
	return k, true, nil
}
