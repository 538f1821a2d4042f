package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
)

// record says which vault an appliance fills, so that an unmounted disk is not
// taken for a place to make a new one.
type record struct {
	ID  string `json:"id"`
	URL string `json:"url"`
}

const recordFile = "vault.json"

// openVault opens the vault, and makes vault and key at the first start.
func openVault(ctx context.Context, c Config) (*vault.Vault, error) {
	was, err := readRecord(c.Dir)
	if err != nil {
		return nil, err
	}
	first := was == nil
	key, err := openKey(c.KeyFile, first)
	if err != nil {
		return nil, err
	}
	st, err := vault.OpenStore(c.Vault, first)
	if err != nil && !first && errors.Is(err, fs.ErrNotExist) {
		return nil, gone(c, was, err)
	}
	if err != nil {
		return nil, err
	}
	v, err := vault.Unlock(ctx, st, key)
	switch {
	case errors.Is(err, vault.ErrNotVault) && first:
		v, err = vault.Create(ctx, st, key)
	case errors.Is(err, vault.ErrNotVault):
		return nil, gone(c, was, err)
	}
	if err != nil {
		return nil, err
	}
	if !first && was.ID != v.ID() {
		return nil, api.Errorf(api.CodeRefused, "name the right one with --vault; to fill this one from now on, remove "+filepath.Join(c.Dir, recordFile),
			"%s holds vault %s, this appliance fills %s in %s", c.Vault, v.ID(), was.ID, was.URL)
	}
	if first || was.URL != c.Vault {
		if err := writeRecord(c.Dir, record{ID: v.ID(), URL: c.Vault}); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func gone(c Config, was *record, err error) error {
	return api.Errorf(api.CodeRefused, "see that the vault's disk is mounted; to start with an empty vault, remove "+filepath.Join(c.Dir, recordFile),
		"the vault %s that this appliance fills is not in %s: %w", was.ID, c.Vault, err)
}

func readRecord(dir string) (*record, error) {
	name := filepath.Join(dir, recordFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which vault to fill: %w", err)
	}
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil || r.ID == "" {
		return nil, fmt.Errorf("%s is damaged: remove it if the vault is in its place", name)
	}
	return r, nil
}

func writeRecord(dir string, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("note which vault to fill: %w", err)
	}
	return writeFile(filepath.Join(dir, recordFile), append(b, '\n'), true)
}

// openKey reads the key file. At the first start it makes one.
func openKey(name string, first bool) (vault.Key, error) {
	k, err := vault.KeyFromFile(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if !first {
		return k, api.Errorf(api.CodeNotAuthorised, "put your copy of the key back in its place (mode 0600)", "the key file %s is gone", name)
	}
	if err := MakeKey(name); err != nil {
		return k, err
	}
	return vault.KeyFromFile(name)
}

// MakeKey writes a new random key to a file that does not exist.
func MakeKey(name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("make the vault's key: %w", err)
	}
	return writeFile(name, []byte(vault.NewKeyText()+"\n"), false)
}

// writeFile writes a private file so that a crash leaves it whole or not at all.
func writeFile(name string, b []byte, overwrite bool) (err error) {
	dir := filepath.Dir(name)
	tmp, err := os.CreateTemp(dir, ".tmp-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil && overwrite {
		err = os.Rename(tmp.Name(), name)
	} else if err == nil {
		err = os.Link(tmp.Name(), name) // fails if there is one
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer d.Close()
	return d.Sync()
}
