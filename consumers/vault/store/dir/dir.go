package dir

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

const (
	tempDir    = ".tmp"
	tempMaxAge = 24 * time.Hour
)

// Store is a directory of objects.
type Store struct {
	root     string
	identity string        // empty: it has none
	keep     time.Duration // Delete refuses what is younger
	made     sync.Map      // directories known to exist and to be durable: path -> struct{}

	mu  sync.Mutex
	was os.FileInfo // mu guards: the root as it was opened
}

// Options say how to open a directory.
type Options struct {
	Create bool          // make it, with its parents, if it is missing
	Keep   time.Duration // refuse to delete objects that are younger
}

var (
	_ store.Store  = (*Store)(nil)
	_ store.Syncer = (*Store)(nil)
	_ store.Stager = (*Store)(nil)
)

// Open opens an existing directory and clears away what crashed writers left in it
// more than a day ago. It works on a read-only directory as well.
func Open(path string) (*Store, error) { return OpenWith(path, Options{}) }

// Create makes the directory, with its parents, if it is missing, and opens it.
func Create(path string) (*Store, error) { return OpenWith(path, Options{Create: true}) }

// OpenWith opens a directory. One that is not there is an ErrAway, and an
// fs.ErrNotExist.
func OpenWith(path string, o Options) (*Store, error) {
	if o.Keep < 0 {
		return nil, fmt.Errorf("open directory store %s: keep %v: want a time of 0 or more", path, o.Keep)
	}
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open directory store %s: %w", path, err)
	}
	if o.Create {
		if err := mkdir(root); err != nil {
			return nil, fmt.Errorf("create directory store: %w", err)
		}
	}
	info, err := os.Stat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open directory store: %w: %w", store.ErrAway, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open directory store: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open directory store: %s is not a directory", root)
	}
	s := &Store{root: root, was: info, keep: o.Keep}
	if o.Create {
		if err := s.makeIdentity(); err != nil {
			return nil, fmt.Errorf("create directory store: %w", err)
		}
	}
	s.identity = readIdentity(root)
	s.clean(time.Now().Add(-tempMaxAge))
	return s, nil
}

// URL returns "dir://" and the absolute path.
func (s *Store) URL() string { return "dir://" + s.root }

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	g, err := s.Stage(ctx, key, data)
	if err != nil {
		return err
	}
	defer g.Abort()
	return g.Commit(ctx)
}

// Stage implements store.Stager: the bytes are in a temporary file, fsynced.
func (s *Store) Stage(ctx context.Context, key string, data []byte) (store.Staged, error) {
	if err := s.check(ctx, key); err != nil {
		return nil, err
	}
	if err := s.present(); err != nil {
		return nil, fmt.Errorf("put %s in %s: %w", key, s.URL(), err)
	}
	temp, err := s.writeTemp(data)
	if err != nil {
		return nil, s.failed("put", key, len(data), err)
	}
	return &staged{s: s, key: key, temp: temp, size: len(data)}, nil
}

// staged is an object that has no name yet but a temporary one.
type staged struct {
	s    *Store
	key  string
	temp string
	size int
}

// Commit implements store.Staged with a hard link: never over an object that is there.
func (g *staged) Commit(ctx context.Context) error {
	s := g.s
	if err := ctx.Err(); err != nil {
		return err
	}
	name := s.path(g.key)
	if err := s.ensure(filepath.Dir(name)); err != nil {
		return s.failed("put", g.key, g.size, err)
	}
	linked := os.Link(g.temp, name)
	if linked != nil && !errors.Is(linked, fs.ErrExist) {
		return s.failed("put", g.key, g.size, linked)
	}
	// Also when somebody else's link was there first: it may have died before this.
	if err := syncDir(filepath.Dir(name)); err != nil {
		return s.failed("put", g.key, g.size, err)
	}
	if linked != nil && !g.ours(name) {
		return fmt.Errorf("put %s in %s: %w", g.key, s.URL(), store.ErrExists)
	}
	return nil
}

// ours reports whether name is the staged file: a Commit before this one linked it.
func (g *staged) ours(name string) bool {
	a, err := os.Stat(g.temp)
	b, there := os.Stat(name)
	return err == nil && there == nil && os.SameFile(a, b)
}

// Abort implements store.Staged.
func (g *staged) Abort() { os.Remove(g.temp) }

// writeTemp returns the name of a durable file with data, or leaves nothing.
func (s *Store) writeTemp(data []byte) (name string, err error) {
	dir := filepath.Join(s.root, tempDir)
	if err := s.ensure(dir); err != nil {
		return "", err
	}
	f, err := os.OpenFile(filepath.Join(dir, rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	err = writeAll(f, data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := s.check(ctx, key); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(key))
	if err != nil {
		return nil, s.failed("get", key, 0, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, s.failed("get", key, 0, err)
	}
	if !info.Mode().IsRegular() {
		return nil, s.failed("get", key, 0, fs.ErrNotExist)
	}
	start, count, err := store.Range(info.Size(), off, n)
	if err != nil {
		return nil, s.failed("get", key, 0, err)
	}
	data := make([]byte, count)
	if _, err := f.ReadAt(data, start); err != nil && !(errors.Is(err, io.EOF) && count == 0) {
		return nil, s.failed("get", key, 0, err)
	}
	return data, nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	if err := s.check(ctx, key); err != nil {
		return store.Info{}, err
	}
	info, err := os.Stat(s.path(key))
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return store.Info{}, s.failed("stat", key, 0, err)
	}
	return store.Info{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, yield func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return fmt.Errorf("list %s: %w", s.URL(), err)
	}
	if err := s.present(); err != nil {
		return fmt.Errorf("list %s: %w", s.URL(), err)
	}
	// Everything with the prefix lies below the directory before its last slash.
	under := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if err := s.list(ctx, under, prefix, yield); err != nil {
		return err
	}
	if err := s.present(); err != nil { // it may have gone meanwhile: then we have seen less than there is
		return fmt.Errorf("list %s: %w", s.URL(), err)
	}
	return nil
}

func (s *Store) list(ctx context.Context, under, prefix string, yield func(store.Info) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	wanted, ok := strings.CutPrefix(prefix, under)
	if !ok {
		wanted = "" // under goes beyond the prefix: all of it is wanted
	}
	entries, err := entries(filepath.Join(s.root, filepath.FromSlash(under)), wanted)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil // nothing was put there yet, or it was deleted meanwhile
	}
	if err != nil {
		return fmt.Errorf("list %s of %s: %w", under, s.URL(), err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(sortName(a), sortName(b)) })
	for _, e := range entries {
		key := under + sortName(e)
		within := strings.HasPrefix(key, prefix)
		switch {
		case e.IsDir() && within:
			err = s.list(ctx, key, prefix, yield)
		case !e.IsDir() && within:
			err = s.listed(key, e, yield)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entries returns what a directory holds whose names begin as wanted, in no order. A
// history of 100 000 segments has so many names in one directory, of which an opening
// wants a few hundred: the others are not worth more than their names.
func entries(dir, wanted string) ([]fs.DirEntry, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if wanted == "" {
		all, err := f.ReadDir(-1)
		return slices.DeleteFunc(all, func(e fs.DirEntry) bool { return e.Name()[0] == '.' }), err
	}
	var some []fs.DirEntry
	for {
		names, err := f.Readdirnames(4096)
		for _, n := range names {
			if n[0] == '.' || !strings.HasPrefix(n, wanted) {
				continue
			}
			i, err := os.Lstat(filepath.Join(dir, n))
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				return nil, err
			}
			some = append(some, fs.FileInfoToDirEntry(i))
		}
		if errors.Is(err, io.EOF) {
			return some, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (s *Store) listed(key string, e fs.DirEntry, yield func(store.Info) error) error {
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s of %s: %w", key, s.URL(), err)
	}
	return yield(store.Info{Key: key, Size: info.Size(), Modified: info.ModTime()})
}

// sortName is what an entry adds to the keys below it: a directory sorts as if its
// name ended in '/', or "a-b" would be listed after "a/x".
func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

// Delete implements store.Store. Emptied directories stay.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.check(ctx, key); err != nil {
		return err
	}
	name := s.path(key)
	err := s.old(name)
	if err == nil {
		err = os.Remove(name)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		if err := s.present(); err != nil {
			return fmt.Errorf("delete %s in %s: %w", key, s.URL(), err)
		}
		return nil
	}
	if err != nil {
		return s.failed("delete", key, 0, err)
	}
	if err := syncDir(filepath.Dir(name)); err != nil {
		return s.failed("delete", key, 0, err)
	}
	return nil
}

// Sync implements store.Syncer: it fsyncs every directory below prefix.
func (s *Store) Sync(ctx context.Context, prefix string) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return fmt.Errorf("sync %s: %w", s.URL(), err)
	}
	if err := s.present(); err != nil {
		return fmt.Errorf("sync %s: %w", s.URL(), err)
	}
	top := filepath.Join(s.root, filepath.FromSlash(prefix[:strings.LastIndexByte(prefix, '/')+1]))
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return syncDir(path)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sync %s of %s: %w", prefix, s.URL(), err)
	}
	return nil
}

func (s *Store) path(key string) string { return filepath.Join(s.root, filepath.FromSlash(key)) }

func (s *Store) check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := store.CheckKey(key); err != nil {
		return fmt.Errorf("%s: %w", s.URL(), err)
	}
	return nil
}

// failed says what went wrong where, in the store's terms.
func (s *Store) failed(op, key string, size int, err error) error {
	switch {
	case op == "put" && errors.Is(err, fs.ErrNotExist):
		s.made.Clear() // somebody removed directories under us: the next Put makes them again
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		if err = s.present(); err == nil {
			err = store.ErrNotFound
		}
	case unreachable(err):
		return fmt.Errorf("%s %s in %s: %w: %w: see that its disk or server is there", op, key, s.URL(), store.ErrAway, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s %s in %s: %w: %w", op, key, s.URL(), store.ErrDenied, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s %s in %s: %w for %d bytes: free some space, then it goes on (%v)", op, key, s.URL(), store.ErrFull, size, err)
	case errors.Is(err, syscall.EXDEV):
		return fmt.Errorf("%s %s in %s: the vault must be on one file system, without mounts inside: %w", op, key, s.URL(), err)
	case op == "put" && (errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EMLINK)):
		return fmt.Errorf("%s %s in %s: the file system has no hard links, use ext4, xfs, btrfs or zfs: %w", op, key, s.URL(), err)
	}
	return fmt.Errorf("%s %s in %s: %w", op, key, s.URL(), err)
}

// ensure makes a directory below the root and its parents, durably.
func (s *Store) ensure(dir string) error {
	if _, ok := s.made.Load(dir); ok {
		return nil
	}
	if err := mkdir(dir); err != nil {
		return err
	}
	s.made.Store(dir, struct{}{})
	return nil
}

// mkdir makes dir and its missing parents and fsyncs the parent of each it made.
func mkdir(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is in the way: not a directory", dir)
		}
		// It may be new from a process that died before it was durable. A parent that
		// we may not read was not made by us.
		if err := syncDir(filepath.Dir(dir)); !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := mkdir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil // this file system has no fsync for directories: nothing more can be done
	}
	return errors.Join(err, f.Close())
}

// clean removes temporary files last written before old. Failing is no harm.
func (s *Store) clean(old time.Time) {
	dir := filepath.Join(s.root, tempDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.ModTime().Before(old) {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
