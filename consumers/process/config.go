package process

import (
	"fmt"
	"runtime"
	"time"

	"github.com/leeward-dr/leeward/consumers/optimize"
	"github.com/leeward-dr/leeward/streams"
)

// Config sizes a process server.
type Config struct {
	BatchBytes  int64         // packed bytes after which a run of links is committed
	BatchAge    time.Duration // how long the first link of a run waits at most
	MemoryBytes int64         // bytes of links that wait for the vault, over all disks
	Workers     int           // commits at the same time
	Pool        streams.Pool  // whose changes are handled; default: the pool that is always there
	Standby     bool          // handle them only while no other process server of the pool lives
}

// Default serves the appliance.
func Default() Config {
	l := optimize.Default()
	return Config{BatchBytes: l.Bytes, BatchAge: l.Age, MemoryBytes: 256 << 20, Workers: max(4, 2*runtime.GOMAXPROCS(0))}
}

// The limits of Config.
const (
	minBatch  = 1 << 20
	maxBatch  = 256 << 20 // the vault takes segments of 512 MiB
	minMemory = 64 << 20
)

// Validate names the field that cannot work.
func (c Config) Validate() error {
	switch {
	case c.BatchBytes < minBatch || c.BatchBytes > maxBatch:
		return fmt.Errorf("process.batch_bytes is %d: use %d to %d", c.BatchBytes, minBatch, maxBatch)
	case c.BatchAge <= 0 || c.BatchAge > time.Minute:
		return fmt.Errorf("process.batch_age is %s: use more than 0 and at most 1m", c.BatchAge)
	case c.MemoryBytes < minMemory || c.MemoryBytes < 2*c.BatchBytes:
		return fmt.Errorf("process.memory_bytes is %d: use at least %d and twice batch_bytes", c.MemoryBytes, max(minMemory, 2*c.BatchBytes))
	case c.Workers < 1 || c.Workers > 1024:
		return fmt.Errorf("process.workers is %d: use 1 to 1024", c.Workers)
	}
	return c.Pool.Validate()
}

// perDisk is how many bytes of links one disk may have waiting: enough to fill a
// run while two wait, but never more than half of all.
func (c Config) perDisk() int64 {
	return max(minMemory/2, min(3*c.BatchBytes, c.MemoryBytes/2))
}

// holdBytes is how many bytes of a disk's links may be held behind a gap: half of what it may
// have waiting, so that what is missing always finds room.
func (c Config) holdBytes() int64 { return min(maxHeldBytes, c.perDisk()/2) }

// pullBytes is how much is fetched ahead for a partition when n of them have a backlog:
// enough that JetStream need not wait for the next request, and all together no more than
// a quarter of the memory. The client asks again at one half, so two of the largest
// messages must fit.
func (c Config) pullBytes(n int) int {
	const largest = streams.MaxMessage + 64<<10 // with subject, reply and headers
	return int(min(max(2*largest, c.MemoryBytes/4/int64(max(1, n))), 12<<20))
}

// tempo is how patient a server is. Tests are less so.
type tempo struct {
	hold     time.Duration // how long a link waits for those before it
	reset    time.Duration // least time between two resets of a partition's consumer
	touch    time.Duration // how often the deadline of a delivery is extended
	idle     time.Duration // after which a disk's writer is closed
	retry    time.Duration // first wait after the store failed
	retryMax time.Duration
	busMax   time.Duration // longest wait after JetStream failed: it is away for seconds, and everybody waits for it
	ask      time.Duration // how long a request for sums waits
	quiet    time.Duration // least time between two equal events
	look     time.Duration // how often it is looked how much is to be fetched ahead
	request  time.Duration // life of a request for messages: so long may one who lost a partition still get some
	beat     time.Duration // how often servers that share partitions say that they live
	leave    time.Duration // how long a partition that moves may take to be committed
}

func patient() tempo {
	return tempo{
		hold: 2 * time.Second, reset: 10 * time.Second,
		touch: streams.PartitionConsumer(0).AckWait / 3,
		idle:  5 * time.Minute, retry: 200 * time.Millisecond, retryMax: 15 * time.Second, busMax: time.Second,
		ask: 5 * time.Second, quiet: 10 * time.Second, request: 6 * time.Second, look: time.Second, beat: time.Second, leave: leaveTime,
	}
}

const (
	maxHeld      = 256
	maxHeldBytes = 16 << 20
	maxAsks      = 16
	linkOverhead = 1 << 10 // bytes charged for a link beyond its payload
)
