package corpus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Shares of the changes, in percent.
const (
	clustered = 70 // in clusters
	onUsed    = 80 // of the clusters begin on a block in use
	hot       = 6  // of the blocks in use are where single blocks change
)

// hotRun is how many blocks in use lie in one hot stretch: a table or an index.
const hotRun = 1024

// Change changes so many percent of the blocks of an image, as a day does. seed and
// day decide which.
func Change(ctx context.Context, path string, percent float64, seed, day uint64) (err error) {
	used, empty, err := split(ctx, path)
	if err != nil {
		return err
	}
	if len(used) == 0 || len(empty) == 0 {
		return errors.New("the disk is full or empty")
	}
	rnd := rand.New(rand.NewPCG(seed, day))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	d := &changer{f: f, rnd: rnd, used: used, changed: map[int64]bool{}, blocks: int64(len(used) + len(empty))}
	want := int(float64(d.blocks) * percent / 100)
	for len(d.changed) < want*clustered/100 {
		at := used[rnd.IntN(len(used))]
		if rnd.IntN(100) >= onUsed {
			at = empty[rnd.IntN(len(empty))]
		}
		length := int64(16) << rnd.IntN(6)
		length += rnd.Int64N(length)/2 - length/4
		how := rnd.IntN(10)
		for i := at; i < min(at+length, d.blocks) && len(d.changed) < want; i++ {
			if err := d.one(i, how); err != nil {
				return err
			}
		}
	}
	warm := hottest(used, rnd)
	for tried := 0; len(d.changed) < want && tried < 100*want; tried++ {
		if err := d.one(warm[rnd.IntN(len(warm))], rnd.IntN(10)); err != nil {
			return err
		}
	}
	return nil
}

// hottest chooses the stretches of blocks in use where single blocks change.
func hottest(used []int64, rnd *rand.Rand) (blocks []int64) {
	run := min(hotRun, max(1, len(used)/32))
	for len(blocks) < max(run, len(used)*hot/100) {
		at := rnd.IntN(len(used) - run + 1)
		blocks = append(blocks, used[at:at+run]...)
	}
	return blocks
}

// split lists the blocks that are not zero and those that are.
func split(ctx context.Context, path string) (used, empty []int64, err error) {
	err = rig.ReadCached(ctx, path, func(off int64, p []byte) error {
		for i := 0; i+Block <= len(p); i += Block {
			at := (off + int64(i)) / Block
			if zero(p[i : i+Block]) {
				empty = append(empty, at)
			} else {
				used = append(used, at)
			}
		}
		return nil
	})
	return used, empty, err
}

type changer struct {
	f       *os.File
	rnd     *rand.Rand
	used    []int64
	changed map[int64]bool
	blocks  int64
}

// one changes a block, if it has not been changed yet. how is 0 to 9: 4 of 10 are
// edits, 4 are contents that lay elsewhere, 2 are incompressible.
func (d *changer) one(at int64, how int) error {
	if d.changed[at] {
		return nil
	}
	var b, was [Block]byte
	if _, err := d.f.ReadAt(was[:], at*Block); err != nil {
		return fmt.Errorf("read block %d: %w", at, err)
	}
	b = was
	switch {
	case how < 4 && !zero(was[:]):
		n := 16 << d.rnd.IntN(6)
		d.noise(b[d.rnd.IntN(Block-n+1):][:n])
	case how < 8:
		if _, err := d.f.ReadAt(b[:], d.used[d.rnd.IntN(len(d.used))]*Block); err != nil {
			return err
		}
	default:
		d.noise(b[:])
	}
	if b == was { // contents that lay elsewhere may be the same
		binary.LittleEndian.PutUint64(b[:], d.rnd.Uint64()|1)
	}
	if b == was {
		return nil
	}
	if _, err := d.f.WriteAt(b[:], at*Block); err != nil {
		return fmt.Errorf("write block %d: %w", at, err)
	}
	d.changed[at] = true
	return nil
}

func (d *changer) noise(p []byte) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], d.rnd.Uint64())
	}
}
