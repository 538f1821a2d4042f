package vault

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
)

// Key opens a vault. Printing it does not show the secret.
type Key struct {
	passphrase string
	random     *seal.Key  // if the passphrase is the text of a random key
	mistyped   error      // it was meant to be such a text
	wrapper    Wrapper    // instead of a passphrase
	file       string     // that it was read from
	cost       seal.Argon // for slots made with this key; zero means the default
}

// maxPassphrase is the longest passphrase in bytes.
const maxPassphrase = 4096

// KeyFromPassphrase returns the key that is the passphrase p. If that is what
// NewKeyText returned, the vault opens with it without the time that Argon2id takes.
func KeyFromPassphrase(p string) Key {
	k := Key{passphrase: p}
	random, ok, err := seal.ParseText(p)
	if ok && err == nil {
		k.random = &random
	}
	k.mistyped = err
	return k
}

// NewKeyText returns the line of a new key file: 256 random bits and a checksum. Of
// random bits nothing can be guessed, so a vault that has such a key opens at once.
func NewKeyText() string { return seal.NewKey().Text() }

// KeyFromWrapper returns the key that a service holds, such as an Azure Key Vault.
func KeyFromWrapper(w Wrapper) Key { return Key{wrapper: w} }

// Wrapper is a service that wraps small secrets with a key which never leaves it.
type Wrapper interface {
	// Name identifies the wrapping key with its version, such as the URL of a key in
	// Azure Key Vault. It is stored in the clear; a slot is only tried by the wrapper
	// that has its name.
	Name() string
	// Wrap returns secret, 32 bytes, wrapped: at most 1024 bytes.
	Wrap(ctx context.Context, secret []byte) ([]byte, error)
	// Unwrap is the reverse of Wrap.
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// KeyFromFile reads a key or a passphrase from the first line of a file, which nobody
// but its owner may read.
func KeyFromFile(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("read key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("read key file: %w", err)
	}
	if info.IsDir() {
		return Key{}, fmt.Errorf("key file %s is a directory", path)
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		return Key{}, fmt.Errorf("key file %s can be read by others (mode %04o): run chmod 600 %s", path, mode.Perm(), path)
	}
	line, err := bufio.NewReaderSize(io.LimitReader(f, maxPassphrase+2), maxPassphrase+2).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return Key{}, fmt.Errorf("read key file %s: %w", path, err)
	}
	k := KeyFromPassphrase(strings.TrimRight(line, "\r\n"))
	if err := k.check(); err != nil {
		return Key{}, fmt.Errorf("key file %s: %w", path, err)
	}
	k.file = path
	return k, nil
}

// what names the key for people: by where it is from, never by what it is.
func (k Key) what() string {
	switch {
	case k.wrapper != nil:
		return "wrapping key " + k.wrapper.Name()
	case k.file != "":
		return "key file " + k.file
	case k.random != nil:
		return "key"
	}
	return "passphrase"
}

func (k Key) check() error {
	if k.wrapper != nil {
		if n := len(k.wrapper.Name()); n == 0 || n > format.MaxText {
			return invalid("the name of the wrapping key has %d bytes, want 1 to %d", n, format.MaxText)
		}
		return nil
	}
	if k.mistyped != nil {
		return invalid("the key is none: %v: take it from a copy", k.mistyped)
	}
	if k.passphrase == "" {
		return invalid("the passphrase is empty")
	}
	if len(k.passphrase) > maxPassphrase {
		return invalid("the passphrase has more than %d bytes", maxPassphrase)
	}
	return nil
}

// String keeps the secret out of logs.
func (Key) String() string { return "vault key" }

// GoString keeps the secret out of logs.
func (Key) GoString() string { return "vault key" }

func (k Key) argon() seal.Argon {
	if k.cost == (seal.Argon{}) {
		return seal.DefaultArgon
	}
	return k.cost
}
