package trace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/leeward-dr/leeward/agent/capture"
)

// A kept record is a file that the agent maps into its memory. What is stored there
// survives the death of the process, whenever it comes, as the kernel's rings do;
// both are gone when the machine is started anew. doc.go says how it is laid out.
const (
	recordMagic = 0x4c575f4b45505431 // "LW_KEPT1"
	headAt      = 512
	headSize    = 4096 - headAt
	mapLimit    = 4 << 20 // bytes of a map at most: a bit stands for more blocks on larger disks
)

// Words of the live part, 8 bytes each in the machine's own order.
const (
	wordMagic = iota
	wordPhase // 0; cpu<<2|phaseReading; cpu<<2|phaseRedo
	wordRedoRecords
	wordRedoSeen
	wordRedoDiscarded
	wordSeen
	wordDiscarded
	wordLedgerLo
	wordLedgerHi
	wordMark // 0: void; 1, 2: the mark in the first or the second place
	wordMark1
	_
	wordMark2
	_
	wordSince
	wordLast
	wordDiscardLo
	wordDiscardHi
	wordRedoQueued
	wordQueued // sectors of discards that were handed to the disk, where that is followed
	wordBefore // sectors of discards that were handed over before that began
	wordSlept  // nanoseconds that the machine had been suspended when recording began
)

const (
	phaseReading = 1 // a page is being read into the inbox, or is there
	phaseRedo    = 2 // the page's marks are made, its sums are in the redo words
)

// head is what a kept record was made for. All of it must still hold for another
// process to take it over.
type head struct {
	Boot     string `json:"boot"`     // id of the boot
	Instance string `json:"instance"` // name below tracefs' instances
	Inode    uint64 `json:"inode"`    // of the instance's directory
	Device   string `json:"device"`   // major:minor
	Sequence string `json:"sequence"` // the kernel's number of the disk: another one in its place has another
	Identity string `json:"identity"`
	Size     uint64 `json:"size"`
	Filter   string `json:"filter"`
	PageSize int    `json:"page_size"` // of the inbox
	CPUs     int    `json:"cpus"`
	Granule  uint64 `json:"granule"` // blocks for which a bit stands
}

// shape says where the parts of a record's file are.
type shape struct{ inbox, cpus, map1, map2, size int }

func (h head) shape(blocks uint64) shape {
	up := func(n int) int { return (n + 4095) &^ 4095 }
	bits := (blocks + h.Granule - 1) / h.Granule
	var s shape
	s.inbox = 4096
	s.cpus = s.inbox + up(h.PageSize)
	s.map1 = s.cpus + up(16*h.CPUs)
	s.map2 = s.map1 + up(int((bits+63)/64*8))
	s.size = s.map2 + (s.map2 - s.map1)
	return s
}

// granule is for how many blocks a bit must stand.
func granule(blocks uint64) uint64 {
	g := uint64(1)
	for (blocks+g-1)/g > mapLimit*8 {
		g *= 2
	}
	return g
}

func blocksOf(size uint64) uint64 { return (size + capture.BlockSize - 1) / capture.BlockSize }

// encode writes a head as it lies in the file.
func (h head) encode() ([]byte, error) {
	b, err := json.Marshal(h)
	if err == nil && len(b) > headSize {
		err = fmt.Errorf("the head of the kept record has %d bytes, there is room for %d", len(b), headSize)
	}
	return b, err
}

// decodeHead reads a head. b may hold anything.
func decodeHead(b []byte) (head, error) {
	b, _, _ = bytes.Cut(b[:min(len(b), headSize)], []byte{0})
	var h head
	if err := json.Unmarshal(b, &h); err != nil {
		return head{}, fmt.Errorf("the head of the kept record: %w", err)
	}
	if h.PageSize < 64 || h.PageSize > 1<<20 || h.CPUs < 1 || h.CPUs > 1<<16 || h.Granule < 1 || h.Granule > 1<<40 || h.Granule&(h.Granule-1) != 0 {
		return head{}, errors.New("the head of the kept record has sizes that cannot be")
	}
	return h, nil
}

// differs names the first thing in which a kept record is not for what is here now. A
// disk that has grown is the same disk: nothing is known of what was added, and all of
// the rest.
func (h head) differs(now head) error {
	switch {
	case h.Boot != now.Boot:
		return errors.New("the machine was started anew since")
	case h.Device != now.Device:
		return fmt.Errorf("it is of device %s, this is %s", h.Device, now.Device)
	case h.Sequence != now.Sequence || h.Identity != now.Identity:
		return fmt.Errorf("it is of another disk: %s, number %s; here is %s, number %s", h.Identity, h.Sequence, now.Identity, now.Sequence)
	case h.Size > now.Size:
		return fmt.Errorf("the disk was made smaller, from %d to %d bytes", h.Size, now.Size)
	case h.Filter != now.Filter, h.PageSize != now.PageSize, h.CPUs != now.CPUs, h.Granule != granule(blocksOf(h.Size)):
		return errors.New("it was made by another version of the agent or the kernel's rings have another shape")
	}
	return nil
}
