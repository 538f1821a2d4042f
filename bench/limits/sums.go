package limits

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/streams/wire"
)

// BlockSums is how fast all CPUs together sum up blocks, as scans do, if nothing has to be
// read: total bytes, of which each CPU has its own in its cache.
func BlockSums(total int64) Limit {
	const own = 256 << 10
	l := Limit{Name: Sums, How: "all CPUs, blocks of 4 KiB that are in their caches"}
	n := int64(runtime.GOMAXPROCS(0))
	rounds := max(1, total/n/own)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		wg.Go(func() {
			data, sums := make([]byte, own), make([]wire.Sum, own/wire.BlockSize)
			rand.NewChaCha8([32]byte{byte(i)}).Read(data)
			for range rounds {
				wire.SumsOf(data, sums)
			}
		})
	}
	wg.Wait()
	l.set(rounds*own*n, time.Since(began), nil)
	return l
}
