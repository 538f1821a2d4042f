package corpus

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// source yields contents. It is used by one goroutine.
type source struct {
	seed  uint64
	files []file // not yet used
	noise *rand.ChaCha8
	rows  *rand.Rand
	row   uint64
}

type file struct {
	path string
	size int64
	rank uint64
}

// maxFile keeps one huge file from being all there is.
const maxFile = 24 << 20

// newSource looks up which files this machine has. They are ranked by a hash of
// their path, which mixes kinds and sizes and does not depend on the walk.
func newSource(seed uint64) *source {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	s := &source{seed: seed, noise: rand.NewChaCha8(key), rows: rand.New(rand.NewPCG(seed, 1))}
	for _, root := range []string{"/usr/share", "/usr/lib"} {
		// A file that cannot be looked at is left out: the corpus has enough others.
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			info, err := d.Info()
			if err != nil || info.Size() == 0 || info.Size() > maxFile {
				return nil
			}
			h := fnv.New64a()
			_ = binary.Write(h, binary.LittleEndian, seed)
			io.WriteString(h, path)
			s.files = append(s.files, file{path, info.Size(), h.Sum64()})
			return nil
		})
	}
	slices.SortFunc(s.files, func(a, b file) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.path, b.path)) })
	return s
}

// put stores one file of the disk.
type put func(ctx context.Context, name string, r io.Reader, size int64) error

// copyFiles hands files of this machine to p until want bytes are there, and says
// how many it had.
func (s *source) copyFiles(ctx context.Context, prefix string, want int64, p put) (got int64, err error) {
	for got < want && len(s.files) > 0 {
		if err := context.Cause(ctx); err != nil {
			return got, err
		}
		f := s.files[0]
		s.files = s.files[1:]
		if f.size > want-got+1<<20 {
			continue
		}
		in, err := os.Open(f.path)
		if err != nil {
			continue // not readable for this user
		}
		err = p(ctx, filepath.Join(prefix, f.path), io.LimitReader(in, f.size), f.size)
		in.Close()
		if err != nil {
			return got, err
		}
		got += (f.size + Block - 1) &^ (Block - 1)
	}
	return got, nil
}

// noiseFiles hands over incompressible files.
func (s *source) noiseFiles(ctx context.Context, want int64, p put) error {
	for i := 0; want > 0; i++ {
		n := min(want, 16<<20)
		if err := p(ctx, fmt.Sprintf("srv/media/%d.bin", i), io.LimitReader(s.noise, n), n); err != nil {
			return err
		}
		want -= n
	}
	return nil
}

// tables hands over files of table pages.
func (s *source) tables(ctx context.Context, name string, want int64, p put) error {
	for i := 0; want > 0; i++ {
		n := min(want, 32<<20)
		if err := p(ctx, fmt.Sprintf("srv/db/%s.%d", name, i), &pages{s: s, left: n}, n); err != nil {
			return err
		}
		want -= n
	}
	return nil
}

// pages reads as 8 KiB table pages.
type pages struct {
	s    *source
	left int64
	buf  []byte
}

// Read fills p with table pages.
func (t *pages) Read(p []byte) (int, error) {
	if t.left <= 0 {
		return 0, io.EOF
	}
	if len(t.buf) == 0 {
		t.buf = t.s.page()
	}
	n := copy(p[:min(int64(len(p)), t.left)], t.buf)
	t.buf, t.left = t.buf[n:], t.left-int64(n)
	return n, nil
}

// page makes one page: a header, and rows with a running key, a few numbers, and
// text of a fixed width that is mostly blank.
func (s *source) page() []byte {
	blank := [68]byte{}
	for i := range blank {
		blank[i] = ' '
	}
	b := make([]byte, 0, 8192)
	b = binary.LittleEndian.AppendUint64(b, s.row*137)
	b = append(b, make([]byte, 16)...)
	for len(b)+128 <= 8192 {
		s.row++
		b = binary.LittleEndian.AppendUint64(b, s.row)
		b = binary.LittleEndian.AppendUint32(b, s.rows.Uint32N(1<<20))
		b = binary.LittleEndian.AppendUint64(b, s.rows.Uint64()>>24)
		b = append(b, fmt.Sprintf("%-40x", s.rows.Uint64())...)
		b = append(b, blank[:]...)
	}
	return b[:8192:8192]
}
