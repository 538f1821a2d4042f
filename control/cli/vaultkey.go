package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
)

// keyRow is a key slot as vault key ls shows it.
type keyRow struct {
	ID   string `json:"id"`
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
	Used bool   `json:"used"` // the vault was opened with it just now
}

// keyDocument says which slot was made or removed. Schema "leeward.vault-key.v1".
type keyDocument struct {
	Schema  string `json:"schema"`
	Added   string `json:"added,omitempty"`
	Removed string `json:"removed,omitempty"`
}

func (a *app) vaultKey() *cobra.Command {
	return noun("key", "The keys that open the vault", a.vaultKeyLs(),
		a.vaultKeyNew("add", "Make the vault open with another key too"),
		a.vaultKeyNew("rotate", "Make the vault open with another key instead of the one given"),
		a.vaultKeyRm())
}

func (a *app) vaultKeyLs() *cobra.Command {
	c := &cobra.Command{Use: "ls", Short: "List the key slots", Args: args()}
	return a.vaultVerb(c, func(ctx context.Context, v *vault.Vault, _ []string) error {
		slots, bad, err := v.Keys(ctx)
		if err != nil {
			return err
		}
		var rows []keyRow
		for _, s := range slots {
			rows = append(rows, keyRow(s))
		}
		err = a.print(items("leeward.vault-keys.v1", rows), func(w io.Writer) {
			row(w, "SLOT", "KIND", "NAME", "USED")
			for _, r := range rows {
				used := ""
				if r.Used {
					used = "yes"
				}
				row(w, r.ID, r.Kind, r.Name, used)
			}
		})
		if err == nil && len(bad) > 0 {
			err = bad[0]
		}
		return err
	})
}

// vaultKeyNew makes the commands that take a new key: it is never an argument.
func (a *app) vaultKeyNew(verb, short string) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: verb, Short: short, Args: args(),
		Long: short + ".\nThe new key is in the file --new-key-file, which is made if it is absent, or in LEEWARD_NEW_KEY.",
	}
	if verb == "rotate" {
		c.Long += "\nWhat is stored is not encrypted anew: who has a copy of the old slot and its key can still open the vault."
	}
	c.Flags().StringVar(&file, "new-key-file", "", "file with the new key; made if absent")
	return a.vaultVerb(c, func(ctx context.Context, v *vault.Vault, _ []string) error {
		key, made, err := a.otherKey(file)
		if err != nil {
			return err
		}
		doc := keyDocument{Schema: "leeward.vault-key.v1"}
		if verb == "rotate" {
			slots, _, err := v.Keys(ctx)
			if err != nil {
				return err
			}
			for _, s := range slots {
				if s.Used {
					doc.Removed = s.ID
				}
			}
			doc.Added, err = v.RotateKey(ctx, key)
			if err != nil {
				return err
			}
		} else if doc.Added, err = v.AddKey(ctx, key); err != nil {
			return err
		}
		return a.print(doc, func(w io.Writer) {
			fmt.Fprintf(w, "slot %s opens the vault\n", doc.Added)
			if doc.Removed != "" {
				fmt.Fprintf(w, "slot %s is gone\n", doc.Removed)
			}
			if made {
				fmt.Fprintf(w, "the new key is in %s: keep a copy elsewhere\n", file)
			}
		})
	})
}

// otherKey reads a key that is to be added.
func (a *app) otherKey(file string) (key vault.Key, made bool, err error) {
	if file != "" {
		return keyAt(file)
	}
	if k := a.Getenv("LEEWARD_NEW_KEY"); k != "" {
		return vault.KeyFromPassphrase(k), false, nil
	}
	return key, false, Usage("--new-key-file FILE, or set LEEWARD_NEW_KEY", "there is no new key")
}

func (a *app) vaultKeyRm() *cobra.Command {
	c := &cobra.Command{
		Use: "rm SLOT", Short: "Remove a key slot, but not the one that the vault was opened with", Args: args("SLOT"),
	}
	return a.careful(a.vaultVerb(c, func(ctx context.Context, v *vault.Vault, args []string) error {
		slots, _, err := v.Keys(ctx)
		if err != nil {
			return err
		}
		for _, s := range slots {
			if s.Used && s.ID == args[0] {
				return api.Errorf(api.CodeRefused, "open the vault with another key, or use: leeward vault key rotate",
					"slot %s is the one that the vault was opened with", s.ID)
			}
		}
		if err := v.RemoveKey(ctx, args[0]); err != nil {
			return err
		}
		doc := keyDocument{Schema: "leeward.vault-key.v1", Removed: args[0]}
		return a.print(doc, func(w io.Writer) { fmt.Fprintf(w, "slot %s is gone\n", args[0]) })
	}), func(slot string) string {
		return "remove key slot " + slot + ": whoever has only that key cannot open the vault any more"
	})
}
