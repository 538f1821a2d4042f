package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// system is the user that hands the accounts' tokens to servers.
const system Role = "system"

// Trust is the keys in a directory. It is safe for use by several goroutines.
type Trust struct {
	dir      string
	operator nkeys.KeyPair
	accounts map[accountName]string // public keys
	sign     map[Role]nkeys.KeyPair
}

// Open reads the keys in dir and makes those that are missing.
func Open(dir string) (*Trust, error) {
	for _, d := range []string{dir, filepath.Join(dir, "accounts"), filepath.Join(dir, "sign"), filepath.Join(dir, "users")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of keys: %w", err)
		}
	}
	if err := adminFromOperator(dir); err != nil {
		return nil, err
	}
	t := &Trust{dir: dir, accounts: map[accountName]string{}, sign: map[Role]nkeys.KeyPair{}}
	var err error
	if t.operator, err = readKey(filepath.Join(dir, "operator.nk"), nkeys.PrefixByteOperator); err != nil {
		return nil, err
	}
	for _, a := range accountNames {
		file := filepath.Join(dir, "accounts", strings.ToLower(string(a))+".nk")
		kp, err := readKey(file, nkeys.PrefixByteAccount)
		if err != nil {
			return nil, err
		}
		if t.accounts[a], err = kp.PublicKey(); err != nil {
			return nil, fmt.Errorf("key %s: %w", file, err)
		}
		kp.Wipe()
	}
	for _, r := range append(Roles(), system) {
		if t.sign[r], err = readKey(filepath.Join(dir, "sign", string(r)+".nk"), nkeys.PrefixByteAccount); err != nil {
			return nil, err
		}
		if r == Machine {
			continue // each is one of a kind
		}
		if err := t.readyUser(r); err != nil {
			return nil, fmt.Errorf("user of role %s: %w", r, err)
		}
	}
	return t, t.writeOperator()
}

// adminFromOperator gives the keys of operators to admins where there are no admins yet:
// until then operators were what admins are. Copies of their user that were handed out
// keep their rights under the new name; the operator's user is made anew.
func adminFromOperator(dir string) error {
	at := func(folder, name string) string { return filepath.Join(dir, folder, name) }
	if _, err := os.Stat(at("sign", string(Admin)+".nk")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The user first: without its key it would be taken for damaged by who comes after a crash.
	for _, f := range []struct{ folder, end string }{{"users", ".creds"}, {"sign", ".nk"}} {
		err := os.Rename(at(f.folder, string(Operator)+f.end), at(f.folder, string(Admin)+f.end))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("hand the operator's keys to the admin: %w", err)
		}
	}
	return nil
}

// readKey reads a seed, or makes one where there is none.
func readKey(file string, kind nkeys.PrefixByte) (nkeys.KeyPair, error) {
	seed, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		kp, err := nkeys.CreatePair(kind)
		if err != nil {
			return nil, err
		}
		if seed, err = kp.Seed(); err != nil {
			return nil, err
		}
		return kp, WriteWhole(file, append(bytes.Clone(seed), '\n'), 0o600) // kp goes on using seed
	}
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	defer clear(seed)
	kp, err := nkeys.ParseDecoratedNKey(seed)
	if err == nil {
		var public string
		if public, err = kp.PublicKey(); err == nil && nkeys.Prefix(public) != kind {
			err = errors.New("it is a key of another kind")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key %s is damaged (%w): restore it from a copy; without it no server believes what it signed", file, err)
	}
	// Whoever copied the directory may have opened it.
	return kp, os.Chmod(file, 0o600)
}

// CredsFile is a ready user of a role: its token and its seed. There is none of
// role Machine.
func (t *Trust) CredsFile(r Role) string { return filepath.Join(t.dir, "users", string(r)+".creds") }

// SystemCreds is the user that Connect of an Authority needs.
func (t *Trust) SystemCreds() string { return t.CredsFile(system) }

// PublicKey is the key of a role's ready user.
func (t *Trust) PublicKey(r Role) (string, error) {
	b, err := os.ReadFile(t.CredsFile(r))
	if err != nil {
		return "", fmt.Errorf("read user: %w", err)
	}
	defer clear(b)
	kp, err := nkeys.ParseDecoratedUserNKey(b)
	if err != nil {
		return "", fmt.Errorf("user %s is damaged: %w", t.CredsFile(r), err)
	}
	defer kp.Wipe()
	return kp.PublicKey()
}

// readyUser makes a role's user, unless there is one that the role's key signed.
func (t *Trust) readyUser(r Role) error {
	file := t.CredsFile(r)
	b, err := os.ReadFile(file)
	if err == nil {
		defer clear(b)
		if t.vouches(r, b) {
			return os.Chmod(file, 0o600)
		}
		return fmt.Errorf("%s is damaged: restore it, or delete it to make a new one, which ends the access of those who have the old", file)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	kp, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	defer kp.Wipe()
	public, err := kp.PublicKey()
	if err != nil {
		return err
	}
	token, err := t.user(r, string(r), public, nil)
	if err != nil {
		return err
	}
	seed, err := kp.Seed()
	if err != nil {
		return err
	}
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return err
	}
	defer clear(creds)
	return WriteWhole(file, creds, 0o600)
}

// vouches reports whether creds hold a token of role r that we signed, and its key.
func (t *Trust) vouches(r Role, creds []byte) bool {
	token, err := jwt.ParseDecoratedJWT(creds)
	if err != nil {
		return false
	}
	u, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return false
	}
	signer, err := t.sign[r].PublicKey()
	if err != nil || u.Issuer != signer {
		return false
	}
	kp, err := nkeys.ParseDecoratedUserNKey(creds)
	if err != nil {
		return false
	}
	defer kp.Wipe()
	public, err := kp.PublicKey()
	return err == nil && public == u.Subject
}

// user makes a user's token.
func (t *Trust) user(r Role, name, publicKey string, groups []string) (string, error) {
	if !nkeys.IsValidPublicUserKey(publicKey) {
		return "", fmt.Errorf("%.80q is no public key of a user: it starts with U and has 56 characters", publicKey)
	}
	u := jwt.NewUserClaims(publicKey)
	u.Name, u.IssuerAccount = name, t.accounts[accountOf(r)]
	u.SetScoped(r != system)
	for _, g := range groups {
		u.Tags = append(u.Tags, groupTag+":"+g) // Add would make it lower case
	}
	token, err := u.Encode(t.sign[r])
	if err != nil {
		return "", fmt.Errorf("sign the token of %s: %w", name, err)
	}
	return token, nil
}

// Operator is the token that servers trust, decoded for an embedded one.
func (t *Trust) Operator() (*jwt.OperatorClaims, error) {
	b, err := os.ReadFile(filepath.Join(t.dir, "operator.jwt"))
	if err != nil {
		return nil, fmt.Errorf("read the operator's token: %w", err)
	}
	c, err := jwt.DecodeOperatorClaims(string(b))
	if err != nil {
		return nil, fmt.Errorf("operator's token in %s: %w", t.dir, err)
	}
	return c, nil
}

func (t *Trust) writeOperator() error {
	public, err := t.operator.PublicKey()
	if err != nil {
		return fmt.Errorf("operator's key: %w", err)
	}
	if c, err := t.Operator(); err == nil && c.Subject == public && c.SystemAccount == t.System() {
		return nil
	}
	c := jwt.NewOperatorClaims(public)
	c.Name, c.SystemAccount = "LEEWARD", t.System()
	token, err := c.Encode(t.operator)
	if err != nil {
		return fmt.Errorf("sign the operator's token: %w", err)
	}
	return WriteWhole(filepath.Join(t.dir, "operator.jwt"), []byte(token), 0o600)
}
