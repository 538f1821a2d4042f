package proof

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/leeward-dr/leeward/bench/rig"
)

// sow puts a file on the filesystem that nobody writes to and returns where a block
// of it lies in the file under the loop device.
func (t *trial) sow(ctx context.Context) (int64, error) {
	if !t.o.Sabotage {
		return 0, nil
	}
	seed := make([]byte, 16*rig.Block) // large enough that no filesystem keeps it in an inode
	rand.NewChaCha8([32]byte{8}).Read(seed)
	if err := os.WriteFile(filepath.Join(t.places[0].dir, "untouched"), seed, 0o644); err != nil {
		return 0, err
	}
	if err := rig.Syncfs(t.places[0].dir); err != nil {
		return 0, err
	}
	const sector = 512
	found := int64(-1)
	err := rig.ReadCached(ctx, t.file, func(off int64, p []byte) error {
		// A whole block of the tracker's must be the file's own: a neighbour's write would
		// have the block read again, and make good what sabotage did.
		for i := int(-off & (rig.Block - 1)); i+rig.Block <= len(p) && found < 0; i += rig.Block {
			at := bytes.Index(seed, p[i:i+sector])
			if at >= 0 && at+rig.Block <= len(seed) && bytes.Equal(p[i:i+rig.Block], seed[at:at+rig.Block]) {
				found = off + int64(i)
			}
		}
		return nil
	})
	if err == nil && found < 0 {
		err = errors.New("the block for sabotage is not on the disk")
	}
	return found, err
}

// spoil changes the block without the block layer of the device seeing it.
func (t *trial) spoil() error {
	f, err := os.OpenFile(t.file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte("nobody saw this coming"), t.plant); err != nil {
		f.Close()
		return fmt.Errorf("write behind the device: %w", err)
	}
	return f.Close()
}
