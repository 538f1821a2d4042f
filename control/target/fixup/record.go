package fixup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	recordDir    = "var/lib/leeward"
	recordFile   = recordDir + "/pre-failover.json"
	backupSuffix = ".pre-failover"
	backupPrefix = "pre-failover."
	recordLimit  = 1 << 20
)

// The kinds of change.
const (
	created  = "created"  // undo: remove
	replaced = "replaced" // undo: put the backup's content back
	moved    = "moved"    // undo: move it back
	appended = "appended" // undo: cut to Size
)

// change is one that was made, as the record has it.
type change struct {
	Kind   string `json:"kind"`
	Path   string `json:"path"` // in the machine, without the first /
	Backup string `json:"backup,omitempty"`
	Size   int64  `json:"size,omitempty"` // before
	Was    string `json:"was,omitempty"`  // SHA-256 of what was replaced, in hexadecimal
	Sum    string `json:"sum,omitempty"`  // of what was written
	What   string `json:"what"`
}

// record is what was done to a machine.
type record struct {
	Version int      `json:"version"`
	Whole   bool     `json:"whole"`             // all that was wanted was done; the machine may have run since
	Undoing bool     `json:"undoing,omitempty"` // all of it is to be taken back, and some of it was
	Changes []change `json:"changes"`
}

// save writes it down. A torn record would undo nothing: it is replaced as a whole.
func (r *record) save(t tree) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err == nil {
		err = t.root.MkdirAll(recordDir, 0o755)
	}
	if err == nil {
		err = t.put(recordFile+".new", append(b, '\n'), 0o644, "etc/fstab")
	}
	if err == nil {
		err = t.root.Rename(recordFile+".new", recordFile)
	}
	return err
}

func parseRecord(b []byte) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("/%s is damaged: %w", recordFile, err)
	}
	if r.Version != 1 {
		return nil, fmt.Errorf("/%s is of version %d, this program knows version 1", recordFile, r.Version)
	}
	for _, c := range r.Changes {
		if !localPath(c.Path) || c.Backup != "" && !localPath(c.Backup) || c.Size < 0 {
			return nil, fmt.Errorf("/%s names %q and %q, which no change of ours does", recordFile, c.Path, c.Backup)
		}
	}
	return r, nil
}

// tree is a machine's files. No path leaves it, whatever links there are in it.
type tree struct{ root *os.Root }

const textLimit = 4 << 20

// load reads a regular file of at most limit bytes.
func (t tree) load(name string, limit int64) ([]byte, error) {
	f, err := t.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if i, err := f.Stat(); err != nil || !i.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("/%s is no file", name))
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("/%s has more than %d bytes", name, limit)
	}
	return b, err
}

func (t tree) read(name string) (string, bool) {
	b, err := t.load(name, textLimit)
	return string(b), err == nil
}

func (t tree) exists(name string) bool {
	_, err := t.root.Lstat(name)
	return err == nil
}

func (t tree) isDir(name string) bool {
	i, err := t.root.Stat(name)
	return err == nil && i.IsDir()
}

// glob lists the regular files that match a pattern in one folder, in order.
func (t tree) glob(pattern string) (all []string) {
	dir, base := path.Split(pattern)
	d, err := t.root.Open(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // what can be read
	slices.Sort(names)
	for _, n := range names {
		i, err := t.root.Stat(dir + n)
		if ok, _ := path.Match(base, n); ok && err == nil && i.Mode().IsRegular() {
			all = append(all, dir+n)
		}
	}
	return all
}

// folders lists the folders in one.
func (t tree) folders(name string) (all []string) {
	d, err := t.root.Open(name)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // what can be read
	slices.Sort(names)
	for _, n := range names {
		if p := name + "/" + n; t.isDir(p) {
			all = append(all, p)
		}
	}
	return all
}

// put writes a file as a whole, in place if it is there, so that its owner, mode and labels
// stay, and makes it durable. A new one gets the labels of like.
func (t tree) put(name string, content []byte, mode fs.FileMode, like string) error {
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if like != "" {
		t.label(f, like)
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// label gives f what SELinux says of another file, if it says anything.
func (t tree) label(f *os.File, like string) {
	if l, err := t.root.Open(like); err == nil {
		copyLabel(l, f)
		l.Close()
	}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// undo takes back what a record says, the last first, and removes it. said tells what was
// done; what the machine has changed since stays as it is and is named.
func undo(t tree) (said []string, err error) {
	b, err := t.load(recordFile, recordLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(b)
	if err != nil {
		return nil, err
	}
	if r.Undoing = true; r.Whole {
		if err := r.save(t); err != nil {
			return nil, err
		}
	}
	for _, c := range slices.Backward(r.Changes) {
		// Before all was done the machine did not run: whatever is there is ours.
		what, err := undoOne(t, c, !r.Whole)
		if err != nil {
			return said, fmt.Errorf("take back what was done to /%s: %w", c.Path, err)
		}
		if what != "" {
			said = append(said, "/"+c.Path+": "+what)
		}
	}
	if err := t.root.Remove(recordFile); err != nil {
		return said, err
	}
	_ = t.root.Remove(recordDir) // if it is ours alone
	return said, nil
}

func undoOne(t tree, c change, force bool) (string, error) {
	switch c.Kind {
	case created:
		b, err := t.load(c.Path, textLimit)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if !force && (err != nil || sum(b) != c.Sum) {
			return "stays: the machine has changed it", nil
		}
		return "removed", t.root.Remove(c.Path)
	case replaced:
		return undoReplaced(t, c, force)
	case moved:
		if !t.exists(c.Backup) {
			return "", nil // it broke off before
		}
		if t.exists(c.Path) {
			return "stays: the machine has made a new one; the old one is /" + c.Backup, nil
		}
		return "moved back", t.root.Rename(c.Backup, c.Path)
	case appended:
		return undoAppended(t, c, force)
	}
	return "", fmt.Errorf("a change of unknown kind %q", c.Kind)
}

func undoReplaced(t tree, c change, force bool) (string, error) {
	was, err := t.load(c.Backup, textLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // it broke off before, or was taken back already
	}
	if err != nil {
		return "", err
	}
	if sum(was) != c.Was {
		// It was not whole yet, so nothing was replaced.
		return "", t.root.Remove(c.Backup)
	}
	now, err := t.load(c.Path, textLimit)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if s := sum(now); !force && err == nil && s != c.Sum && s != c.Was {
		return "stays: the machine has changed it; as it was, it is /" + c.Backup, nil
	}
	return "as it was", t.root.Rename(c.Backup, c.Path) // which has its mode and labels
}

func undoAppended(t tree, c change, force bool) (string, error) {
	f, err := t.root.OpenFile(c.Path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "is not there any more", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	i, err := f.Stat()
	if err != nil {
		return "", err
	}
	if i.Size() <= c.Size {
		return "", nil // nothing was appended, or the machine has made it anew
	}
	tail := make([]byte, min(i.Size()-c.Size, maxAppend+1))
	if _, err := f.ReadAt(tail, c.Size); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if !force && sum(tail) != c.Sum {
		return "stays: the machine has made it anew", nil
	}
	if err := errors.Join(f.Truncate(c.Size), f.Sync()); err != nil {
		return "", err
	}
	return "as it was", nil
}
