package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/control/api"
)

func (a *app) vaultCommand() *cobra.Command {
	return noun("vault", "The vault itself: needs only its store and its key",
		a.vaultInit(), a.vaultLs(), a.vaultInspect(), a.vaultCheck(), a.vaultPrune(), a.vaultKey(), a.vaultRestore())
}

// vaultVerb makes a command that opens the vault first.
func (a *app) vaultVerb(c *cobra.Command, run func(ctx context.Context, v *vault.Vault, args []string) error) *cobra.Command {
	var f vaultFlags
	c.RunE = func(cmd *cobra.Command, args []string) error {
		v, err := f.open(cmd.Context(), a)
		if err != nil {
			return err
		}
		return run(cmd.Context(), v, args)
	}
	f.add(c)
	return c
}

func (a *app) vaultInit() *cobra.Command {
	var f vaultFlags
	c := &cobra.Command{
		Use: "init", Short: "Make an empty vault; makes the key file too if there is none", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, made, err := f.newKey(a)
			if err != nil {
				return err
			}
			full := f
			full.fill(a)
			st, err := vault.OpenStore(full.url, true)
			if err != nil {
				return err
			}
			v, err := vault.Create(cmd.Context(), st, key)
			if err != nil {
				return err
			}
			doc := api.VaultInfo{Schema: "leeward.vault.v1", ID: v.ID(), URL: v.Store().URL()}
			return a.print(doc, func(w io.Writer) {
				fmt.Fprintf(w, "vault %s is in %s\n", v.ID(), v.Store().URL())
				if made {
					fmt.Fprintf(w, "its key is in %s: keep a copy elsewhere, without it nobody can read the vault\n", full.keyFile)
				}
			})
		},
	}
	f.add(c)
	return c
}

// newKey reads the key for a new vault, and makes a file with one if it is absent.
func (v *vaultFlags) newKey(a *app) (key vault.Key, made bool, err error) {
	if k := a.Getenv("LEEWARD_KEY"); k != "" && v.keyFile == "" {
		return vault.KeyFromPassphrase(k), false, nil
	}
	f := *v
	f.fill(a)
	return keyAt(f.keyFile)
}

// keyAt reads a key file, and makes one with a key if it is absent.
func keyAt(path string) (key vault.Key, made bool, err error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return key, false, fmt.Errorf("make the key: %w", err)
		}
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return key, false, fmt.Errorf("make the key: %w", err)
		}
		_, err = fmt.Fprintln(file, vault.NewKeyText())
		if err == nil {
			err = file.Sync()
		}
		if err = errors.Join(err, file.Close()); err != nil {
			return key, false, fmt.Errorf("make the key: %w", err)
		}
		made = true
	}
	key, err = vault.KeyFromFile(path)
	return key, made, err
}

// diskRow is a disk as vault ls shows it.
type diskRow struct {
	Machine   string    `json:"machine"`
	Disk      string    `json:"disk"`
	SizeBytes uint64    `json:"size_bytes"` // at the newest point
	Points    int       `json:"points"`
	Oldest    time.Time `json:"oldest_point,omitzero"`
	Newest    time.Time `json:"newest_point,omitzero"`
}

// objectRow is an object as vault ls --objects shows it.
type objectRow struct {
	Key      string    `json:"key"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
}

func (a *app) vaultLs() *cobra.Command {
	var objects bool
	c := &cobra.Command{
		Use: "ls [PREFIX]", Short: "List the disks in the vault, or with --objects its objects", Args: args("[PREFIX]"),
	}
	c.Flags().BoolVar(&objects, "objects", false, "list objects, those whose key starts with PREFIX")
	return a.vaultVerb(c, func(ctx context.Context, v *vault.Vault, args []string) error {
		prefix := ""
		if len(args) > 0 {
			prefix = args[0]
		}
		if objects {
			return a.listObjects(ctx, v, prefix)
		}
		rows, err := a.diskRows(ctx, v, prefix)
		if err != nil {
			return err
		}
		return a.print(items("leeward.vault-disks.v1", rows), func(w io.Writer) {
			if len(rows) == 0 {
				fmt.Fprintln(w, "the vault holds no disk yet")
				return
			}
			row(w, "MACHINE", "DISK", "SIZE", "POINTS", "OLDEST", "NEWEST")
			for _, r := range rows {
				row(w, r.Machine, r.Disk, size(r.SizeBytes), r.Points, stamp(r.Oldest), stamp(r.Newest))
			}
		})
	})
}

func (a *app) diskRows(ctx context.Context, v *vault.Vault, prefix string) ([]diskRow, error) {
	disks, err := v.Disks(ctx)
	if err != nil {
		return nil, err
	}
	all, err := a.pointsOf(ctx, v)
	if err != nil {
		return nil, err
	}
	rows := map[vault.DiskID]*diskRow{}
	for _, d := range disks {
		rows[d] = &diskRow{Machine: d.Machine, Disk: d.Disk}
	}
	for _, p := range all { // oldest first
		for _, m := range p.Machines {
			for _, d := range m.Disks {
				r := rows[vault.DiskID{Machine: m.Machine, Disk: d.Disk}]
				if r == nil {
					continue // its key is gone; vault check says so
				}
				r.Points++
				r.SizeBytes, r.Newest = d.Size, p.Time.UTC()
				if r.Oldest.IsZero() {
					r.Oldest = p.Time.UTC()
				}
			}
		}
	}
	var out []diskRow
	for id, r := range rows {
		if strings.HasPrefix(id.String(), prefix) {
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b diskRow) int {
		return cmp.Or(cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Disk, b.Disk))
	})
	return out, nil
}

func (a *app) listObjects(ctx context.Context, v *vault.Vault, prefix string) error {
	var rows []objectRow
	err := v.Store().List(ctx, prefix, func(i store.Info) error {
		rows = append(rows, objectRow{Key: i.Key, Bytes: i.Size, Modified: i.Modified.UTC()})
		return nil
	})
	if err != nil {
		return err
	}
	return a.print(items("leeward.vault-objects.v1", rows), func(w io.Writer) {
		row(w, "KEY", "SIZE", "MODIFIED")
		for _, r := range rows {
			row(w, r.Key, size(r.Bytes), stamp(r.Modified))
		}
	})
}

func (a *app) vaultInspect() *cobra.Command {
	c := &cobra.Command{
		Use: "inspect KEY", Short: "Show what an object of the vault says", Args: args("KEY"),
		Long: "Show what an object of the vault says; leeward vault ls --objects lists their keys.",
	}
	return a.vaultVerb(c, func(ctx context.Context, v *vault.Vault, args []string) error {
		o, err := v.Inspect(ctx, args[0])
		if err != nil {
			return err
		}
		doc, err := snakeCase(o)
		if err != nil {
			return err
		}
		if a.output == "table" {
			return writeYAML(a.Out, doc)
		}
		return a.print(doc, nil)
	})
}

// snakeCase turns v into a document whose names are in snake_case.
func snakeCase(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber() // numbers of 64 bits stay as they are
	var doc any
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	return renamed(doc), nil
}

func renamed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			out[snake(k)] = renamed(x)
		}
		return out
	case []any:
		for i := range v {
			v[i] = renamed(v[i])
		}
	}
	return v
}

// snake turns a Go name into snake_case: BaseHash to base_hash, ID to id.
func snake(name string) string {
	var out strings.Builder
	r := []rune(name)
	for i, c := range r {
		plural := i+2 == len(r) && r[i+1] == 's' // CPUs is cpus
		if i > 0 && unicode.IsUpper(c) && (unicode.IsLower(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1]) && !plural) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToLower(c))
	}
	return out.String()
}
