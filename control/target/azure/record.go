package azure

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/control/target"
)

const (
	recordFile    = "azure.json"
	recordVersion = 1
	maxRecord     = 1 << 20
)

// record is what azure.json holds. It is written before the step that it tells of.
type record struct {
	Version  int               `json:"version"`
	Run      string            `json:"run"` // in the name and the tag of all that is made
	Machine  string            `json:"machine"`
	Place    Place             `json:"place"`
	Isolated bool              `json:"isolated"`
	Firmware string            `json:"firmware"`
	Size     string            `json:"size"` // of the virtual machine
	Began    time.Time         `json:"began"`
	Up       time.Time         `json:"up,omitzero"` // when the virtual machine was made
	Disks    []diskRecord      `json:"disks"`
	Owner    string            `json:"owner,omitempty"`      // of what may be kept of the disks
	Fix      bool              `json:"fix,omitempty"`        // its disks are changed before they are sent
	Fit      bool              `json:"fit,omitempty"`        // they were
	Fixups   []string          `json:"fixups,omitempty"`     // and how
	Tokens   map[string]string `json:"operations,omitempty"` // step → what resumes it
	Removing bool              `json:"removing,omitempty"`   // nothing may be made any more
}

// diskRecord is a disk on its way.
type diskRecord struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes of the point's disk
	Digest string `json:"digest"`
	Sent   int64  `json:"sent,omitempty"` // bytes, when all of them are
	Filled bool   `json:"filled,omitempty"`
	Kept   bool   `json:"kept,omitempty"`  // of what is kept of the disk, which the run holds until it is done
	Alone  bool   `json:"alone,omitempty"` // not of that
	Done   bool   `json:"done,omitempty"`  // it can be attached
}

// book keeps a record in a run's directory.
type book struct {
	dir string

	mu sync.Mutex
	record
}

// errNoRun wraps fs.ErrNotExist.
var errNoRun = fmt.Errorf("no run in Azure is kept here: %w", fs.ErrNotExist)

// openBook reads the record in dir.
func openBook(dir string) (*book, error) {
	file := filepath.Join(dir, recordFile)
	st, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoRun
	}
	if err == nil && st.Size() > maxRecord {
		return nil, fmt.Errorf("%s has %d bytes, at most %d", file, st.Size(), maxRecord)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read what is kept of a run in Azure: %w", err)
	}
	b := &book{dir: dir}
	if err := json.Unmarshal(raw, &b.record); err != nil {
		return nil, fmt.Errorf("%s cannot be understood: %w: see with leeward azure ls what there is", file, err)
	}
	if b.Version != recordVersion || b.Run == "" {
		return nil, fmt.Errorf("%s is of version %d, this program knows %d", file, b.Version, recordVersion)
	}
	return b, b.Place.Check()
}

func newBook(dir, run string, m *target.Machine, p Place, isolated bool, size string) *book {
	b := &book{dir: dir, record: record{
		Version: recordVersion, Run: run, Machine: m.Name, Place: p, Isolated: isolated, Firmware: m.Firmware, Size: size, Began: time.Now().UTC(),
	}}
	for _, d := range m.Disks {
		digest := d.Digest()
		b.Disks = append(b.Disks, diskRecord{Name: d.Name(), Size: d.Size(), Digest: hex.EncodeToString(digest[:])})
	}
	return b
}

// fits says why m is not what the run was begun with.
func (b *book) fits(m *target.Machine) error {
	same := len(m.Disks) == len(b.Disks) && m.Name == b.Machine
	for i := 0; same && i < len(m.Disks); i++ {
		digest := m.Disks[i].Digest()
		same = b.Disks[i].Digest == hex.EncodeToString(digest[:]) && b.Disks[i].Size == m.Disks[i].Size()
	}
	if !same {
		return fmt.Errorf("run %s in Azure was begun with machine %s at another point: clean it up first", b.Run, b.Machine)
	}
	return nil
}

// change changes the record and keeps it.
func (b *book) change(how func(r *record)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	how(&b.record)
	raw, err := json.MarshalIndent(&b.record, "", "  ")
	if err == nil {
		err = replace(filepath.Join(b.dir, recordFile), append(raw, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep what is known of a run in Azure: %w", err)
	}
	return nil
}

// now returns a copy of the record.
func (b *book) now() record {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record
	r.Disks = append([]diskRecord(nil), r.Disks...)
	return r
}

// token implements tokens.
func (b *book) token(step string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Tokens[step]
}

// keep implements tokens.
func (b *book) keep(step, token string) error {
	if token == b.token(step) {
		return nil
	}
	return b.change(func(r *record) {
		if r.Tokens == nil {
			r.Tokens = map[string]string{}
		}
		if r.Tokens[step] = token; token == "" {
			delete(r.Tokens, step)
		}
	})
}

// replace writes a file so that a crash leaves the old or the new one. Only the owner can
// read it.
func replace(file string, b []byte) error {
	tmp := file + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// signature is where a disk's signature lies while it is filled.
func (b *book) signature(disk int) string {
	return filepath.Join(b.dir, fmt.Sprintf("disk%d.sas", disk))
}

func (b *book) readSignature(disk int) string {
	s, err := os.ReadFile(b.signature(disk))
	if err != nil {
		return "" // then another is asked for
	}
	return strings.TrimSpace(string(s))
}

func (b *book) dropSignature(disk int) error {
	if err := os.Remove(b.signature(disk)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the signature of a disk: %w", err)
	}
	return nil
}

// Names of what a run makes, and the tag that all of it bears.
const (
	tagRun     = "leeward-run"
	tagMachine = "leeward-machine"
	tagKind    = "leeward-kind" // test or failover
	tagBegan   = "leeward-began"

	maxBase = 40 // bytes of a machine's name in those of resources
)

// base is the name of the virtual machine, and what the others begin with.
func (r *record) base() string {
	name := unnamed.ReplaceAllString(r.Machine[:min(len(r.Machine), maxBase)], "-")
	return "lw-" + strings.Trim(name, "-._") + "-" + r.Run
}

// unnamed is what the names of resources may not have.
var unnamed = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

func (r *record) disk(i int) string { return fmt.Sprintf("%s-disk%d", r.base(), i) }
func (r *record) nic() string       { return r.base() + "-nic" }
func (r *record) net() string       { return r.base() + "-net" }
func (r *record) nsg() string       { return r.base() + "-nsg" }
func (r *record) blob(i int) string { return fmt.Sprintf("%s/disk%d.vhd", r.base(), i) }

func (r *record) tags() map[string]string {
	kind := "failover"
	if r.Isolated {
		kind = "test"
	}
	return map[string]string{tagRun: r.Run, tagMachine: r.Machine, tagKind: kind, tagBegan: r.Began.Format(time.RFC3339)}
}

func (r *record) tagged() map[string]*string {
	out := map[string]*string{}
	for k, v := range r.tags() {
		out[k] = &v
	}
	return out
}
