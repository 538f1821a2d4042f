package overlay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Layout of the map, see the package's comment.
const (
	mapMagic   = "LWOVMAP1"
	headerSize = 4096
	headerSum  = headerSize - sha256.Size
	leafSize   = 8 * leafPages / wordPages
)

// mapSize returns how long the map of a disk is, in bytes.
func mapSize(disk int64) int64 {
	return headerSize + (pages(disk)+leafPages-1)/leafPages*leafSize
}

// header is the beginning of a map.
type header struct {
	size   int64 // bytes of the disk
	bound  bool  // there is a digest
	digest [32]byte
}

func (h *header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, mapMagic)
	binary.LittleEndian.PutUint32(b[8:], PageSize)
	if h.bound {
		b[12] = 1
		copy(b[24:], h.digest[:])
	}
	binary.LittleEndian.PutUint64(b[16:], uint64(h.size))
	sum := sha256.Sum256(b[:headerSum])
	copy(b[headerSum:], sum[:])
	return b
}

func parseHeader(b []byte) (*header, error) {
	if len(b) != headerSize || string(b[:8]) != mapMagic {
		return nil, errors.New("it is no map of an overlay, or one of another version")
	}
	if sum := sha256.Sum256(b[:headerSum]); !bytes.Equal(sum[:], b[headerSum:]) {
		return nil, errors.New("its beginning is damaged")
	}
	h := &header{size: int64(binary.LittleEndian.Uint64(b[16:])), bound: b[12] == 1, digest: [32]byte(b[24:])}
	if h.size < 0 || !bytes.Equal(h.encode(), b) {
		return nil, errors.New("it is of another version")
	}
	return h, nil
}

// touched has both bits of each page of a word set that was written or zeroed.
func touched(w uint64) uint64 {
	high := w & (everyPage << 1)
	return high | high>>1
}

// encode appends a leaf as the map has it.
func (l *leaf) encode(b []byte) []byte {
	for _, w := range l {
		b = binary.LittleEndian.AppendUint64(b, w&touched(w))
	}
	return b
}

// check says what is wrong with a leaf of a map, which has n pages.
func checkLeaf(b []byte, n int64) error {
	if len(b) != leafSize {
		return fmt.Errorf("%d bytes are no leaf", len(b))
	}
	for i := range int64(leafPages / wordPages) {
		w := binary.LittleEndian.Uint64(b[8*i:])
		if w&everyPage&^touched(w) != 0 {
			return fmt.Errorf("pages from %d on are in a state that there is not", i*wordPages)
		}
		if left := n - i*wordPages; left < wordPages && w>>(2*max(0, left)) != 0 {
			return fmt.Errorf("there is something behind the end of the disk")
		}
	}
	return nil
}

// load takes a leaf of the map, which was checked, into the states.
func (s *states) load(at int64, b []byte) (written bool) {
	for i := range leafPages / wordPages {
		w := binary.LittleEndian.Uint64(b[8*i:])
		if w == 0 {
			continue
		}
		l := s.own(at)
		l[i] = l[i]&^touched(w) | w
		written = written || w&(everyPage<<1)&^((w&everyPage)<<1) != 0
	}
	return written
}
