package shard

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

const (
	magic      = "LWSHARD1"
	headerSize = 128
	blockSize  = 64 << 10
	sumSize    = 16
	maxObject  = 1 << 40
	maxShards  = 32 // k+m
)

// Kinds of what a member holds under a name of ours.
const (
	kindShard    = 1
	kindBlocker  = 2 // nobody's: no put can win this place any more
	kindIdentity = 3 // which member of which set this store is
)

type id [16]byte

// header is what every shard, blocker and identity begins with.
type header struct {
	kind    byte
	k, m    int
	index   int
	length  int64 // of the object
	gen     id    // of the put
	set     id
	created int64 // nanoseconds since 1970 by the writer's clock
	sum     [32]byte
}

var errMalformed = errors.New("not a shard")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

func (h *header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	b[8], b[9], b[10], b[11] = h.kind, byte(h.k), byte(h.m), byte(h.index)
	binary.BigEndian.PutUint32(b[12:], blockSize)
	binary.BigEndian.PutUint64(b[16:], uint64(h.length))
	copy(b[24:], h.gen[:])
	copy(b[40:], h.set[:])
	binary.BigEndian.PutUint64(b[56:], uint64(h.created))
	copy(b[64:], h.sum[:])
	sum := sha256.Sum256(b[:112])
	copy(b[112:], sum[:sumSize])
	return b
}

// decodeHeader reads the first headerSize bytes of b.
func decodeHeader(b []byte) (*header, error) {
	if len(b) < headerSize {
		return nil, malformed("%d bytes, want at least %d", len(b), headerSize)
	}
	b = b[:headerSize]
	if string(b[:len(magic)]) != magic {
		return nil, malformed("it begins with %x", b[:len(magic)])
	}
	if sum := sha256.Sum256(b[:112]); !bytes.Equal(sum[:sumSize], b[112:]) {
		return nil, malformed("its header has the wrong sum")
	}
	h := &header{kind: b[8], k: int(b[9]), m: int(b[10]), index: int(b[11]), length: int64(binary.BigEndian.Uint64(b[16:]))}
	copy(h.gen[:], b[24:])
	copy(h.set[:], b[40:])
	h.created = int64(binary.BigEndian.Uint64(b[56:]))
	copy(h.sum[:], b[64:])
	switch {
	case h.kind < kindShard || h.kind > kindIdentity:
		return nil, malformed("kind %d: a newer program wrote it", h.kind)
	case checkCode(h.k, h.m) != nil || h.index >= h.k+h.m:
		return nil, malformed("shard %d of %d+%d", h.index, h.k, h.m)
	case binary.BigEndian.Uint32(b[12:]) != blockSize:
		return nil, malformed("blocks of %d bytes: a newer program wrote it", binary.BigEndian.Uint32(b[12:]))
	case h.length < 0 || h.length > maxObject:
		return nil, malformed("an object of %d bytes", h.length)
	case !bytes.Equal(b[96:112], make([]byte, 16)):
		return nil, malformed("what is reserved is not zero: a newer program wrote it")
	case h.kind != kindShard && (h.length != 0 || h.gen != id{}):
		return nil, malformed("kind %d with data", h.kind)
	}
	return h, nil
}

func checkCode(k, m int) error {
	if k < 2 || m < 1 || m >= k || k+m > maxShards {
		return fmt.Errorf("%d+%d: want 2 or more data and 1 or more parity shards, more data than parity, at most %d: such as 2+1 or 4+2", k, m, maxShards)
	}
	return nil
}

// chunk is the bytes of data in a whole chunk: of each parity shard and of the first
// data shards.
func (h *header) chunk() int64 { return (h.length + int64(h.k) - 1) / int64(h.k) }

// share is the bytes of data in shard i.
func (h *header) share(i int) int64 {
	c := h.chunk()
	if i >= h.k {
		return c
	}
	return min(max(h.length-int64(i)*c, 0), c)
}

// stored is the size of a shard with n bytes of data.
func stored(n int64) int64 { return headerSize + n + (n+blockSize-1)/blockSize*sumSize }

// unstored is the reverse of stored, or -1.
func unstored(size int64) int64 {
	body := size - headerSize
	if body < 0 {
		return -1
	}
	n := body - (body+blockSize+sumSize-1)/(blockSize+sumSize)*sumSize
	if n < 0 || stored(n) != size {
		return -1
	}
	return n
}

func (h *header) time() time.Time { return time.Unix(0, h.created) }

func blockSum(gen id, index int, number int64, data []byte) []byte {
	s := sha256.New()
	var at [21]byte
	copy(at[:], gen[:])
	at[16] = byte(index)
	binary.BigEndian.PutUint32(at[17:], uint32(number))
	s.Write(at[:])
	s.Write(data)
	return s.Sum(nil)[:sumSize]
}

// pack makes the object of shard h.index from its data.
func (h *header) pack(data []byte) []byte {
	out := make([]byte, 0, stored(int64(len(data))))
	out = append(out, h.encode()...)
	for n := int64(0); len(data) > 0; n++ {
		part := data[:min(blockSize, len(data))]
		data = data[len(part):]
		out = append(out, blockSum(h.gen, h.index, n, part)...)
		out = append(out, part...)
	}
	return out
}

// span is the place in shard i's object of the blocks that hold its data from a to b,
// and the data's offset in the first of them.
func (h *header) span(i int, a, b int64) (off, n, first int64) {
	first = a / blockSize
	last := min((b+blockSize-1)/blockSize*blockSize, h.share(i))
	off = headerSize + first*(blockSize+sumSize)
	return off, stored(last) - off, first
}

// unpack opens blocks of shard i, the first of which has number first, and appends
// their data to dst.
func (h *header) unpack(dst []byte, i int, first int64, raw []byte) ([]byte, error) {
	for n := first; len(raw) > 0; n++ {
		if len(raw) <= sumSize {
			return nil, malformed("block %d is cut", n)
		}
		part := raw[sumSize:min(len(raw), sumSize+blockSize)]
		if !bytes.Equal(blockSum(h.gen, i, n, part), raw[:sumSize]) {
			return nil, malformed("block %d has the wrong sum", n)
		}
		dst = append(dst, part...)
		raw = raw[sumSize+len(part):]
	}
	return dst, nil
}
