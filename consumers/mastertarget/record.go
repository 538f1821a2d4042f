package mastertarget

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/leeward-dr/leeward/consumers/vault"
)

// recordVersion is that of the record's format. A record of another is not understood.
const recordVersion = 1

// record is what is known of a disk, see the package's comment.
type record struct {
	Version  int             `json:"version"`
	Vault    string          `json:"vault"` // id
	Machine  string          `json:"machine"`
	Disk     string          `json:"disk"`
	Identity string          `json:"identity"` // of what is written to
	Size     uint64          `json:"size"`     // bytes
	Regions  []region        `json:"regions"`
	Verified *vault.Position `json:"verified,omitempty"`
}

// region is a run of blocks. Those that are the same at all of Maybe are as they are
// there; if it is empty nothing is known.
type region struct {
	From  uint64           `json:"from"`
	To    uint64           `json:"to"`
	Maybe []vault.Position `json:"maybe"`
}

func (r *record) blocks() uint64 { return (r.Size + vault.BlockSize - 1) / vault.BlockSize }

// check says what is wrong with a record that was read.
func (r *record) check() error {
	if r.Version != recordVersion {
		return fmt.Errorf("it has version %d, this program knows %d", r.Version, recordVersion)
	}
	at := uint64(0)
	for _, x := range r.Regions {
		if x.From != at || x.To <= x.From {
			return fmt.Errorf("a region begins at block %d, not %d, or is empty", x.From, at)
		}
		at = x.To
	}
	if at != r.blocks() {
		return fmt.Errorf("its regions end at block %d of %d", at, r.blocks())
	}
	return nil
}

// forget makes everything unknown.
func (r *record) forget() {
	r.Regions, r.Verified = []region{{To: r.blocks()}}, nil
}

// at returns where all of the disk is known to be.
func (r *record) at() (vault.Position, bool) {
	if len(r.Regions) == 1 && len(r.Regions[0].Maybe) == 1 {
		return r.Regions[0].Maybe[0], true
	}
	return vault.Position{}, false
}

// towards notes that blocks may be changed to what they are at goal.
func (r *record) towards(goal vault.Position) {
	for i := range r.Regions {
		if x := &r.Regions[i]; len(x.Maybe) > 0 && !slices.Contains(x.Maybe, goal) {
			x.Maybe = append(slices.Clip(x.Maybe), goal)
		}
	}
	r.Verified = nil
}

// reached notes that the blocks before done are as at goal.
func (r *record) reached(goal vault.Position, done uint64) {
	if done == 0 {
		return
	}
	all := []region{{To: done, Maybe: []vault.Position{goal}}}
	for _, x := range r.Regions {
		if x.To <= done {
			continue
		}
		x.From = max(x.From, done)
		if last := &all[len(all)-1]; slices.Equal(last.Maybe, x.Maybe) && len(x.Maybe) > 0 {
			last.To = x.To
			continue
		}
		all = append(all, x)
	}
	r.Regions = all
}

func (m *Master) recordPath() string {
	return filepath.Join(m.cfg.StateDir, m.cfg.Disk.Machine+"."+m.cfg.Disk.Disk+".home.json")
}

// load reads the record, or begins one. That of another disk says nothing of this one.
func (m *Master) load() (*record, error) {
	fresh := &record{
		Version: recordVersion, Vault: m.cfg.Vault.ID(), Machine: m.cfg.Disk.Machine, Disk: m.cfg.Disk.Disk,
		Identity: m.id, Size: m.cfg.Size,
	}
	fresh.forget()
	b, err := os.ReadFile(m.recordPath())
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return nil, fmt.Errorf("record of what is known of the disk: %w", err)
	}
	r := new(record)
	if err := json.Unmarshal(b, r); err == nil {
		err = r.check()
		same := r.Vault == fresh.Vault && r.Machine == fresh.Machine && r.Disk == fresh.Disk && r.Identity == fresh.Identity && r.Size == fresh.Size
		if err == nil && same && r.Identity != "" {
			return r, nil
		}
		m.cfg.Log.Info("what is known of a disk is not of this one: all of it is compared", "disk", m.cfg.Path, "record", m.recordPath(), "err", err)
		return fresh, nil
	}
	m.cfg.Log.Warn("the record of what is known of the disk is damaged: all of it is compared", "record", m.recordPath())
	return fresh, nil
}

// save makes the record durable.
func (m *Master) save() error {
	b, err := json.MarshalIndent(m.rec, "", " ")
	if err != nil {
		return err
	}
	if err := replace(m.recordPath(), append(b, '\n')); err != nil {
		return fmt.Errorf("record of what is known of the disk: %w", err)
	}
	return nil
}

// replace replaces a file so that after a power failure it is the old or the new one.
func replace(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
