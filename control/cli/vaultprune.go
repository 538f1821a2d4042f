package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/consumers/vault"
)

// pruneDocument is what vault prune did. Schema "leeward.vault-prune.v1".
type pruneDocument struct {
	Schema  string            `json:"schema"`
	Vault   string            `json:"vault"`
	URL     string            `json:"url"`
	Keep    string            `json:"keep"`
	DryRun  bool              `json:"dry_run"`
	Kept    []vault.KeptPoint `json:"kept"`
	Removed []vault.KeptPoint `json:"removed"`
	Folded  int               `json:"segments_folded"`
	Written int64             `json:"bytes_written"`
	Mapped  int               `json:"maps_written"`
	Deleted int               `json:"objects_deleted"`
	Freed   int64             `json:"bytes_freed"`
	Seconds float64           `json:"seconds"`
}

func (a *app) vaultPrune() *cobra.Command {
	var o vault.MaintainOptions
	var keep string
	var rate int64
	var yes bool
	c := &cobra.Command{
		Use: "prune", Short: "Remove the points that no rule keeps, and what only they needed", Args: args(),
		Long: "Remove the recovery points that neither a rule nor a pin keeps, fold the history that no point shows\n" +
			"any more, and delete what is not needed then. It may be interrupted at any time and run while disks\n" +
			"are protected. Give process servers credentials that may not delete, and prune with others.\n" +
			"A point that a machine is running from must be pinned before.",
	}
	c.Flags().StringVar(&keep, "keep", vault.DefaultRetention.String(), `points to keep of each group, or "everything" to fold only`)
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "change nothing, say which points would go")
	c.Flags().BoolVar(&o.NoDelete, "no-delete", false, "fold, but delete neither points nor segments")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask, also at a terminal")
	c.Flags().Int64Var(&rate, "rate", 0, "read and write at most so many MiB a second; 0 for no limit")
	return a.vaultVerb(c, func(ctx context.Context, v *vault.Vault, _ []string) error {
		var err error
		if o.Keep, err = vault.ParseRetention(keep); err != nil {
			return Usage("", "--keep: %v", err)
		}
		if rate < 0 {
			return Usage("", "--rate is %d: want MiB a second", rate)
		}
		o.Rate = rate << 20
		if !o.DryRun && !o.NoDelete && a.atTerminal() && !yes {
			word := ""
			if err := a.typed("remove the points of vault "+v.ID()+" that "+o.Keep.String()+" does not keep (--dry-run shows them)", "prune", &word); err != nil {
				return err
			}
		}
		if a.verbose {
			o.Progress = func(what string) { a.note("%s", what) }
		}
		done, err := v.Maintain(ctx, o)
		if err != nil {
			return err
		}
		doc := pruneDocument{
			Schema: "leeward.vault-prune.v1", Vault: v.ID(), URL: v.Store().URL(), Keep: o.Keep.String(), DryRun: o.DryRun,
			Kept: done.Kept, Removed: done.Removed, Folded: done.Folded, Written: done.Written, Mapped: done.Mapped,
			Deleted: done.Deleted, Freed: done.Freed, Seconds: done.Took.Seconds(),
		}
		return a.print(doc, func(w io.Writer) { pruneTable(w, doc, o.NoDelete) })
	})
}

func pruneTable(w io.Writer, d pruneDocument, noDelete bool) {
	fate := "removed"
	if d.DryRun || noDelete {
		fate = "would go"
	}
	row(w, "POINT", "GROUP", "TIME", "FATE", "WHY")
	for _, p := range d.Removed {
		row(w, p.ID, p.Group, stamp(p.Time), fate, "")
	}
	for _, p := range d.Kept {
		row(w, p.ID, p.Group, stamp(p.Time), "kept", strings.Join(p.Reasons, ", "))
	}
	if d.DryRun {
		fmt.Fprintf(w, "nothing was changed: %d points would go, %d stay\n", len(d.Removed), len(d.Kept))
		return
	}
	fmt.Fprintf(w, "%d segments folded, %d maps made (%s written), %d objects deleted (%s freed), in %s\n",
		d.Folded, d.Mapped, size(d.Written), d.Deleted, size(d.Freed), span(time.Duration(d.Seconds*float64(time.Second))))
}
