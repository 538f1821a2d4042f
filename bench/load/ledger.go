package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"
)

// recordHead is number, length and CRC-32C of a record's body, 16 bytes.
const recordHead = 16

// perFile is how many records a ledger file holds.
const perFile = 500

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Ledger appends numbered records to files, each synced before the next, and
// remembers when the kernel said that it was on the disk.
type Ledger struct {
	Dir   string
	Seed  uint64
	Pause time.Duration // between two records

	mu sync.Mutex
	// guarded by mu:
	synced  []time.Time // when record i was on the disk
	slowest time.Duration
}

// body makes the body of record n. It depends on seed and n alone, so that a
// reader can tell a wrong body from a right one.
func body(seed, n uint64) []byte {
	r := rand.New(rand.NewPCG(seed, n))
	b := make([]byte, 64+r.IntN(1200))
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

func record(seed, n uint64) []byte {
	b := body(seed, n)
	h := binary.LittleEndian.AppendUint64(make([]byte, 0, recordHead+len(b)), n)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(b)))
	h = binary.LittleEndian.AppendUint32(h, crc32.Checksum(b, castagnoli))
	return append(h, b...)
}

// Run writes records until ctx ends; then it returns nil.
func (l *Ledger) Run(ctx context.Context) error {
	dir := filepath.Join(l.Dir, "ledger")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	t := time.NewTicker(max(l.Pause, time.Millisecond))
	defer t.Stop()
	for n := uint64(0); ; {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%08d", n/perFile)))
		if err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
		if err := syncDir(dir); err != nil {
			f.Close()
			return fmt.Errorf("ledger: %w", err)
		}
		for ; ; n++ {
			select {
			case <-ctx.Done():
				return f.Close()
			case <-t.C:
			}
			if err := l.append(f, n); err != nil {
				f.Close()
				return fmt.Errorf("ledger: record %d: %w", n, err)
			}
			if n%perFile == perFile-1 {
				n++
				break
			}
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (l *Ledger) append(f *os.File, n uint64) error {
	began := time.Now()
	if _, err := f.Write(record(l.Seed, n)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.synced = append(l.synced, now)
	l.slowest = max(l.slowest, now.Sub(began))
	return nil
}

// Before is how many records were on the disk before t.
func (l *Ledger) Before(t time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The wall clock is compared: t comes from another process.
	return sort.Search(len(l.synced), func(i int) bool { return !l.synced[i].Round(0).Before(t.Round(0)) })
}

// Slowest is the longest that one record took, which is how long a writer ever
// stood still.
func (l *Ledger) Slowest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slowest
}

// Len is the number of records on the disk.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.synced)
}

// Intact counts the records from 0 on that are whole and right in a ledger's files
// below dir, up to the first that is not.
func Intact(dir string, seed uint64) (n int, err error) {
	for {
		b, err := os.ReadFile(filepath.Join(dir, "ledger", fmt.Sprintf("%08d", n/perFile)))
		if errors.Is(err, fs.ErrNotExist) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("read ledger: %w", err)
		}
		had := n
		n += whole(bytes.NewReader(b), seed, uint64(n))
		if n-had < perFile {
			return n, nil
		}
	}
}

// whole counts records that are right from number n on.
func whole(r io.Reader, seed, n uint64) (count int) {
	for count < perFile {
		want := record(seed, n+uint64(count))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
			return count
		}
		count++
	}
	return count
}

// First is when the first record was on the disk, now if none is.
func (l *Ledger) First() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.synced) == 0 {
		return time.Now()
	}
	return l.synced[0]
}
