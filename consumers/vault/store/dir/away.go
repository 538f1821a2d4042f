package dir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// identityFile holds a random name, by which a directory is known again after its
// file system was mounted anew. What has none (a copy made by hand) works as well, but
// is taken for away then, until it is opened again.
const identityFile = ".leeward-store"

const maxIdentity = 64

func readIdentity(root string) string {
	f, err := os.Stat(filepath.Join(root, identityFile))
	if err != nil || f.Size() > maxIdentity {
		return ""
	}
	b, err := os.ReadFile(filepath.Join(root, identityFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// makeIdentity names a directory, unless it has a name.
func (s *Store) makeIdentity() error {
	if readIdentity(s.root) != "" {
		return nil
	}
	temp, err := s.writeTemp([]byte(rand.Text() + "\n"))
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, filepath.Join(s.root, identityFile)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(s.root)
}

// present returns ErrAway if the directory is not the one that was opened: its disk
// was unmounted, and what is left is the empty place for it.
func (s *Store) present() error {
	info, err := os.Stat(s.root)
	if err != nil {
		return fmt.Errorf("%w: %w: see that its disk is there and mounted", store.ErrAway, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if os.SameFile(info, s.was) {
		return nil
	}
	if s.identity == "" || readIdentity(s.root) != s.identity {
		return fmt.Errorf("%w: %s is not the directory that was opened: see that its disk is mounted", store.ErrAway, s.root)
	}
	s.was = info
	s.made.Clear()
	return nil
}

// old returns ErrKept if the file is too young to be deleted.
func (s *Store) old(name string) error {
	if s.keep == 0 {
		return nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if until := info.ModTime().Add(s.keep); time.Now().Before(until) {
		return fmt.Errorf("%w: it may be deleted from %s on", store.ErrKept, until.UTC().Format(time.RFC3339))
	}
	return nil
}

// unreachable are errors of a file system whose disk or server is gone.
func unreachable(err error) bool {
	for _, e := range []error{syscall.ESTALE, syscall.ENOTCONN, syscall.ENXIO, syscall.ENODEV, syscall.EHOSTDOWN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
