package disk_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	mrand "math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

// A queue reads what the disk holds, in whatever order, also the short block at its end, and
// with several goroutines that wait.
func TestQueue(t *testing.T) {
	disktest.NeedRoot(t)
	const blocks, depth, most = 4001, 8, 64
	img := disktest.Image(t, blocks*disk.BlockSize-1024)
	want := make([]byte, blocks*disk.BlockSize)
	_, _ = rand.Read(want[:len(want)-1024])
	if err := os.WriteFile(img, want[:len(want)-1024], 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, disktest.Attach(t, img))
	if d.Blocks() != blocks || d.Size()%disk.BlockSize == 0 {
		t.Fatalf("%d blocks, %d bytes", d.Blocks(), d.Size())
	}
	q, err := d.Queue(depth)
	if err != nil {
		t.Fatal(err)
	}
	free, under := make(chan int, depth), make(chan struct{}, depth)
	bufs, at, count := [depth][]byte{}, [depth]uint64{}, [depth]uint64{}
	for tag := range depth {
		bufs[tag] = disk.AlignedBuffer(most * disk.BlockSize)
		free <- tag
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range under {
				tag, err := q.Wait()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				from, n := at[tag], count[tag]
				mu.Unlock()
				if !bytes.Equal(bufs[tag][:n*disk.BlockSize], want[from*disk.BlockSize:][:n*disk.BlockSize]) {
					t.Errorf("blocks %d+%d are not what the disk holds", from, n)
				}
				free <- tag
			}
		})
	}
	for i := range 500 {
		tag := <-free
		from := mrand.Uint64N(blocks)
		if i%5 == 0 {
			from = blocks - 1
		}
		n := 1 + mrand.Uint64N(min(most, blocks-from))
		mu.Lock()
		at[tag], count[tag] = from, n
		mu.Unlock()
		clear(bufs[tag])
		if err := q.Submit(tag, from, bufs[tag][:n*disk.BlockSize]); err != nil {
			t.Fatal(err)
		}
		under <- struct{}{}
	}
	close(under)
	wg.Wait()
	buf := disk.AlignedBuffer(2 * disk.BlockSize)
	if q.Submit(0, blocks-1, buf) == nil || q.Submit(0, ^uint64(0), buf) == nil || q.Submit(0, 0, buf[1:]) == nil || q.Submit(0, 0, buf[:100]) == nil {
		t.Error("a read was begun that cannot be")
	}
	// What is under way ends before Close does, also of a disk that was closed.
	if err := q.Submit(0, 0, buf); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	q.Close()
	if !bytes.Equal(buf, want[:len(buf)]) {
		t.Error("a read was still under way after Close")
	}
}

func TestNoQueueOfFiles(t *testing.T) {
	if _, err := open(t, disktest.Image(t, mib)).Queue(4); !errors.Is(err, disk.ErrNoQueue) {
		t.Errorf("got %v", err)
	}
}
