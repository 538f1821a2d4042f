package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
)

// checkDocument is what vault check found. Schema "leeward.vault-check.v1".
type checkDocument struct {
	Schema    string         `json:"schema"`
	Vault     string         `json:"vault"`
	URL       string         `json:"url"`
	Disks     int            `json:"disks"`
	Segments  int            `json:"segments"`
	Points    int            `json:"points"`
	Bytes     int64          `json:"bytes"`
	DataRead  bool           `json:"data_read"`
	BytesRead int64          `json:"bytes_read"` // of segments, read whole
	Problems  []checkProblem `json:"problems"`
	Repaired  []checkProblem `json:"repaired,omitempty"` // with --repair: what was done is in try
	Lost      []lostPoint    `json:"lost,omitempty"`     // with --repair: points that cannot be restored
	Proved    []string       `json:"proved,omitempty"`   // with --repair: points that problems name and that restore all the same
}

type lostPoint struct {
	Point string `json:"point"`
	Group string `json:"group"`
	Disk  string `json:"disk,omitempty"`
	What  string `json:"what"`
}

type checkProblem struct {
	Key  string `json:"key"`
	What string `json:"what"`
	Try  string `json:"try,omitempty"`
}

// checkFlags are those of vault check.
type checkFlags struct {
	vault.CheckOptions
	subset string
	state  string
	repair bool
}

func (a *app) vaultCheck() *cobra.Command {
	var f checkFlags
	c := &cobra.Command{
		Use: "check", Short: "Verify that every recovery point can be had", Args: args(),
		Long: "Verify that every object is known and intact, that chains have no gap, and that every recovery point\n" +
			"can be had. With --read-data everything is read, opened and compared with its digest; with\n" +
			"--read-data-subset a part of it, another one each time.\n\n" +
			"--repair reads everything and puts right what can be: stores that hold more than they need heal\n" +
			"themselves, maps are made anew, and segments of which only the index, the sums or the end is damaged\n" +
			"are made anew from their frames. It says what it did, and which recovery points are lost, after it\n" +
			"has restored all that are in doubt to nowhere. It needs credentials that may delete.",
	}
	c.Flags().BoolVar(&f.ReadData, "read-data", false, "read and verify all data, not only the ends of the segments")
	c.Flags().StringVar(&f.subset, "read-data-subset", "", "read and verify a part of the data, e.g. 1%, going on where the last check stopped")
	c.Flags().StringVar(&f.state, "state", "", "file that remembers where the last check stopped (default: in the user's cache)")
	c.Flags().BoolVar(&f.repair, "repair", false, "put right what can be, and say what is lost")
	return a.vaultVerb(c, func(ctx context.Context, v *vault.Vault, _ []string) error { return a.runCheck(ctx, v, &f) })
}

func (a *app) runCheck(ctx context.Context, v *vault.Vault, f *checkFlags) error {
	if err := f.begin(a, v); err != nil {
		return err
	}
	p := newProgress(a.Err)
	f.Progress = func(done, total int64) { p.show("check", done, total) }
	r, repaired, err := f.look(ctx, v)
	p.done()
	if err != nil {
		return err
	}
	if err := f.remember(v, r); err != nil {
		return err
	}
	doc := checkDocument{
		Schema: "leeward.vault-check.v1", Vault: v.ID(), URL: v.Store().URL(), Disks: r.Disks, Segments: r.Segments,
		Points: r.Points, Bytes: r.Bytes, DataRead: f.ReadData, BytesRead: r.Read, Problems: []checkProblem{},
	}
	for _, x := range r.Problems {
		doc.Problems = append(doc.Problems, checkProblem{x.Key, x.What, x.Try})
	}
	for _, x := range repaired.Done {
		doc.Repaired = append(doc.Repaired, checkProblem{x.Key, x.What, x.Try})
	}
	for _, x := range repaired.Lost {
		doc.Lost = append(doc.Lost, lostPoint{x.ID, x.Group, x.Disk, x.What})
	}
	for _, x := range repaired.Kept {
		doc.Proved = append(doc.Proved, x.ID)
	}
	if err := a.print(doc, func(w io.Writer) { checkTable(w, doc) }); err != nil {
		return err
	}
	if n := len(doc.Problems); n > 0 {
		return api.Errorf(api.CodeFailed, doc.Problems[0].Try, "the vault in %s has %d problems", doc.URL, n)
	}
	return nil
}

// look checks, and repairs if that is wanted.
func (f *checkFlags) look(ctx context.Context, v *vault.Vault) (*vault.Report, *vault.Repaired, error) {
	if !f.repair {
		r, err := v.Check(ctx, f.CheckOptions)
		return r, &vault.Repaired{}, err
	}
	f.ReadData = true
	done, err := v.Repair(ctx, f.Progress)
	return done.Left, done, err
}

// shownRepairs is how many repairs a table lists: a new disk of a set has one for each
// object of the vault.
const shownRepairs = 20

func checkTable(w io.Writer, d checkDocument) {
	for i, p := range d.Repaired {
		if i == shownRepairs {
			fmt.Fprintf(w, "… and %d more repairs; -o json lists them all\n", len(d.Repaired)-i)
			break
		}
		what := p.What
		if p.Key != "" { // else it is of a whole store
			what = p.Key + ": " + what
		}
		fmt.Fprintf(w, "%s; done: %s\n", what, p.Try)
	}
	for _, p := range d.Problems {
		fmt.Fprintf(w, "%s: %s\n  try: %s\n", p.Key, p.What, p.Try)
	}
	for _, p := range d.Lost {
		fmt.Fprintf(w, "LOST: point %s of %s %s: %s\n", p.Point, p.Group, p.Disk, p.What)
	}
	for _, id := range d.Proved {
		fmt.Fprintf(w, "point %s can be had: it was restored to nowhere and has its digest\n", id)
	}
	how := "the ends of the segments were read; --read-data reads everything"
	if d.BytesRead > 0 {
		how = size(d.BytesRead) + " of segments were read whole; --read-data reads everything"
	}
	if d.DataRead {
		how = "all data was read and has its digests"
	}
	if len(d.Problems) > 0 {
		how = "damaged"
	}
	fmt.Fprintf(w, "%d disks, %d segments, %d points, %s: %s\n", d.Disks, d.Segments, d.Points, size(d.Bytes), how)
}

// checkState is the file that remembers where a check of a subset stopped.
type checkState struct {
	Schema string `json:"schema"` // "leeward.check-state.v1"
	After  string `json:"after"`  // key of the last segment read
}

const checkStateSchema = "leeward.check-state.v1"

// begin reads the share and where to go on.
func (f *checkFlags) begin(a *app, v *vault.Vault) error {
	if f.subset == "" {
		return nil
	}
	if f.ReadData || f.repair {
		return Usage("", "--read-data and --repair read everything: leave out --read-data-subset")
	}
	number, isPercent := strings.CutSuffix(f.subset, "%")
	share, err := strconv.ParseFloat(number, 64)
	if err != nil || !isPercent || share <= 0 || share > 100 {
		return Usage("", "--read-data-subset is %q: want a share like 1%% or 0.5%%, up to 100%%", f.subset)
	}
	f.Subset = share / 100
	if f.state == "" {
		if f.state, err = defaultState(a, v.ID()); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(f.state)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var s checkState
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err == nil && s.Schema != checkStateSchema {
		err = fmt.Errorf("its schema is %q, want %q", s.Schema, checkStateSchema)
	}
	if err != nil {
		return api.Errorf(api.CodeFailed, "remove the file to begin anew", "read where the last check stopped, %s: %w", f.state, err)
	}
	f.After = s.After
	return nil
}

// defaultState is in the user's cache, or without one beside the key.
func defaultState(a *app, id string) (string, error) {
	name := "check-" + id + ".json"
	if dir := a.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "leeward", name), nil
	}
	if home := a.Getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".cache", "leeward", name), nil
	}
	return "", Usage("name one with --state FILE", "there is no HOME, so no place to remember where a check stopped")
}

// remember writes where this check stopped.
func (f *checkFlags) remember(v *vault.Vault, r *vault.Report) error {
	if r.Next == "" {
		return nil
	}
	b, err := json.Marshal(checkState{Schema: checkStateSchema, After: r.Next})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(f.state), 0o700)
	}
	if err == nil {
		err = os.WriteFile(f.state+".new", append(b, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(f.state+".new", f.state)
	}
	if err != nil {
		return api.Errorf(api.CodeFailed, "name a file that can be written with --state FILE", "remember where the check of vault %s stopped: %w", v.ID(), err)
	}
	return nil
}
