package embed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nkeys"

	"github.com/leeward-dr/leeward/streams/bus"
)

// KeyFile is the seed of a role's user.
func (s *Server) KeyFile(r Role) string { return keyFile(s.cfg.Dir, r) }

// ContextFile is a context of the nats CLI for a role; bus.Options.Context takes
// it too.
func (s *Server) ContextFile(r Role) string {
	return filepath.Join(s.cfg.Dir, "contexts", string(r)+".json")
}

func keyFile(dir string, r Role) string { return filepath.Join(dir, "keys", string(r)+".nk") }

// loadKeys reads the public key of every role and makes the seeds that are
// missing.
func loadKeys(dir string) (map[Role]string, error) {
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of keys: %w", err)
	}
	keys := map[Role]string{}
	for _, r := range roles {
		file := keyFile(dir, r)
		seed, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			seed, err = newKey(file)
		}
		if err != nil {
			return nil, fmt.Errorf("key of role %s: %w", r, err)
		}
		kp, err := nkeys.ParseDecoratedUserNKey(seed)
		clear(seed)
		if err != nil {
			return nil, fmt.Errorf("key of role %s: %s is damaged (%w): restore it, or delete it to make a new one, which ends the access of those who have the old", r, file, err)
		}
		if keys[r], err = kp.PublicKey(); err != nil {
			return nil, fmt.Errorf("key of role %s: %w", r, err)
		}
		kp.Wipe()
		// Whoever copied the directory may have opened it.
		if err := os.Chmod(file, 0o600); err != nil {
			return nil, fmt.Errorf("key of role %s: %w", r, err)
		}
	}
	return keys, nil
}

func newKey(file string) ([]byte, error) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	seed, err := kp.Seed()
	if err != nil {
		return nil, err
	}
	return seed, writeWhole(file, append(seed, '\n'), 0o600)
}

// writeContexts writes a context for each role. They hold no secret, only the
// path of one.
func (s *Server) writeContexts() error {
	if err := os.MkdirAll(filepath.Join(s.cfg.Dir, "contexts"), 0o700); err != nil {
		return fmt.Errorf("make the directory of contexts: %w", err)
	}
	for _, r := range roles {
		b, err := json.MarshalIndent(map[string]string{
			"description": "Leeward " + string(r), "url": s.url, "nkey": s.KeyFile(r), "ca": s.CAFile(),
			"inbox_prefix": bus.InboxPrefix(s.keys[r]),
		}, "", "  ")
		if err == nil {
			err = writeWhole(s.ContextFile(r), append(b, '\n'), 0o600)
		}
		if err != nil {
			return fmt.Errorf("write context of role %s: %w", r, err)
		}
	}
	return nil
}

// writeWhole writes a file so that after a crash it is whole or not there.
func writeWhole(file string, b []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
