package limits

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Limit is one thing this machine can do.
type Limit struct {
	Name  string  `json:"name"`
	Rate  float64 `json:"rate,omitempty"`  // bytes a second
	Ratio float64 `json:"ratio,omitempty"` // of compression, where that is the point
	How   string  `json:"how"`
	Why   string  `json:"why,omitempty"` // it could not be taken
}

// Names of the limits.
const (
	DiskRead  = "disk read"
	DiskWrite = "disk write"
	Zstd      = "zstd"
	AESGCM    = "aes-256-gcm"
	SHA256    = "sha-256"
	Sums      = "block sums"
	JetStream = "jetstream"
)

// frame is the piece in which the product compresses and seals, in bytes.
const frame = 256 << 10

// sample bounds what is compressed, sealed and hashed, in bytes.
const sample = 128 << 20

// Disk reads the image past the page cache, then writes its contents to a new file
// in dir and waits until the disk has it.
func Disk(ctx context.Context, image, dir string) []Limit {
	read := Limit{Name: DiskRead, How: "sequential, O_DIRECT, 1 MiB, one read ahead"}
	n := int64(0)
	began := time.Now()
	err := rig.ReadDirect(ctx, image, func(_ int64, p []byte) error { n += int64(len(p)); return nil })
	read.set(n, time.Since(began), err)

	write := Limit{Name: DiskWrite, How: "sequential, then fsync, the image's non-zero bytes"}
	n, took, err := writeOut(ctx, image, filepath.Join(dir, "limit"))
	write.set(n, took, err)
	return []Limit{read, write}
}

// writeOut copies what is not zero in image to a file and times the writes and the
// fsync, without the reading.
func writeOut(ctx context.Context, image, to string) (n int64, took time.Duration, err error) {
	data, err := nonZero(ctx, image, 512<<20)
	if err != nil {
		return 0, 0, err
	}
	f, err := os.Create(to)
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(to)
	defer f.Close()
	began := time.Now()
	for p := data; len(p) > 0; {
		k, err := f.Write(p[:min(len(p), rig.Chunk)])
		if err != nil {
			return n, 0, err
		}
		p, n = p[k:], n+int64(k)
	}
	if err := f.Sync(); err != nil {
		return n, 0, err
	}
	return n, time.Since(began), nil
}

// nonZero reads at most limit bytes of blocks that are not zero.
func nonZero(ctx context.Context, image string, limit int) ([]byte, error) {
	data := make([]byte, 0, limit)
	zeros := make([]byte, rig.Block)
	err := rig.ReadCached(ctx, image, func(_ int64, p []byte) error {
		for ; len(p) >= rig.Block; p = p[rig.Block:] {
			if string(p[:rig.Block]) == string(zeros) {
				continue
			}
			if len(data)+rig.Block > limit {
				return io.EOF
			}
			data = append(data, p[:rig.Block]...)
		}
		return nil
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data, err
}

func (l *Limit) set(n int64, took time.Duration, err error) {
	if err == nil && n == 0 {
		err = errors.New("there was nothing to measure with")
	}
	if err != nil {
		l.Why = err.Error()
		return
	}
	l.Rate = float64(n) / took.Seconds()
}

// CPU measures what one core does with the image's contents.
func CPU(ctx context.Context, image string) []Limit {
	pack := Limit{Name: Zstd, How: "klauspost zstd, fastest, one core, frames of 256 KiB of non-zero blocks"}
	seal := Limit{Name: AESGCM, How: "one core, frames of 256 KiB"}
	hash := Limit{Name: SHA256, How: "one core, blocks of 4 KiB"}
	data, err := nonZero(ctx, image, sample)
	if err == nil && len(data) < frame {
		err = errors.New("the image is empty")
	}
	if err != nil {
		for _, l := range []*Limit{&pack, &seal, &hash} {
			l.set(0, 0, err)
		}
		return []Limit{pack, seal, hash}
	}
	pack.zstd(data)
	seal.gcm(data)
	took := cpuTime(func() {
		for p := data; len(p) >= rig.Block; p = p[rig.Block:] {
			sha256.Sum256(p[:rig.Block])
		}
	})
	hash.set(int64(len(data)), took, nil)
	return []Limit{pack, seal, hash}
}

func (l *Limit) zstd(data []byte) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		l.set(0, 0, err)
		return
	}
	defer enc.Close()
	packed, out := 0, make([]byte, 0, 2*frame)
	took := cpuTime(func() {
		for p := data; len(p) > 0; p = p[min(frame, len(p)):] {
			packed += len(enc.EncodeAll(p[:min(frame, len(p))], out[:0]))
		}
	})
	l.set(int64(len(data)), took, nil)
	l.Ratio = float64(len(data)) / float64(packed)
}

func (l *Limit) gcm(data []byte) {
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		l.set(0, 0, err)
		return
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		l.set(0, 0, err)
		return
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		l.set(0, 0, err)
		return
	}
	nonce, out := make([]byte, gcm.NonceSize()), make([]byte, 0, frame+64)
	took := cpuTime(func() {
		for p := data; len(p) > 0; p = p[min(frame, len(p)):] {
			gcm.Seal(out[:0], nonce, p[:min(frame, len(p))], nil)
		}
	})
	l.set(int64(len(data)), took, nil)
}

// cpuTime runs f and returns the processor time of this process meanwhile, which
// is what a busy neighbour cannot change much. f must be the only thing that runs.
func cpuTime(f func()) time.Duration {
	before := rig.SelfCPU()
	began := time.Now()
	f()
	if used := rig.SelfCPU() - before; used > 0 {
		return used
	}
	return time.Since(began)
}

// String is for people.
func (l Limit) String() string {
	if l.Why != "" {
		return "not taken: " + l.Why
	}
	s := fmt.Sprintf("%.0f MB/s", l.Rate/1e6)
	if l.Ratio > 0 {
		s += fmt.Sprintf(", ratio %.2f", l.Ratio)
	}
	return s
}
