package process

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// taps tells those who listen what goes by: the headers of every change, without its
// contents. It has a connection of its own and a bounded queue, because the server holds
// back whoever sends to a listener that does not read: what finds no room is not told.
type taps struct {
	bus   *bus.Bus // of the server: the connection is made like this one
	queue chan *nats.Msg
	told  [streams.Partitions]lastTold
	done  sync.WaitGroup
}

// lastTold is the last message of a partition that was told.
type lastTold struct {
	sequence atomic.Uint64 // in the stream
	stored   atomic.Int64  // when; nanoseconds since 1970
}

// maxTold is how many headers wait at most.
const maxTold = 1024

func newTaps(b *bus.Bus) *taps { return &taps{bus: b, queue: make(chan *nats.Msg, maxTold)} }

// start tells until ctx ends.
func (t *taps) start(ctx context.Context, wait tempo) {
	t.done.Go(func() {
		var b *bus.Bus
		for b == nil {
			try, cancel := context.WithTimeout(ctx, answerWait)
			b, _ = t.bus.Again(try, "leeward process: taps") // the server's own connection says why
			cancel()
			if b == nil && !sleep(ctx, wait.busMax) {
				return
			}
		}
		defer func() {
			b.Conn.Close() // what is not sent is not worth a wait
			b.Close()
		}()
		for {
			select {
			case m := <-t.queue:
				_ = b.Conn.PublishMsg(m) // while there is no connection nobody listens
			case <-ctx.Done():
				return
			}
		}
	})
}

// tell takes a message of partition p. One that is delivered again is not told again: it is
// neither behind the last one nor newer, as it would be in a stream whose end was lost or
// that was made anew.
func (t *taps) tell(p int, m jetstream.Msg, at *jetstream.MsgMetadata) {
	last, stored := &t.told[p], at.Timestamp.UnixNano()
	if at.Sequence.Stream <= last.sequence.Load() && stored <= last.stored.Load() {
		return
	}
	last.sequence.Store(at.Sequence.Stream)
	last.stored.Store(stored)
	c := nats.NewMsg(streams.TapSubject(m.Subject()))
	for k, v := range m.Headers() {
		c.Header[k] = v
	}
	// As nats-server has them in what it publishes again itself.
	c.Header["Nats-Stream"] = []string{at.Stream}
	c.Header["Nats-Subject"] = []string{m.Subject()}
	c.Header["Nats-Sequence"] = []string{strconv.FormatUint(at.Sequence.Stream, 10)}
	c.Header["Nats-Time-Stamp"] = []string{at.Timestamp.UTC().Format(time.RFC3339Nano)}
	c.Header["Nats-Msg-Size"] = []string{strconv.Itoa(len(m.Data()))}
	select {
	case t.queue <- c:
	default:
	}
}

func (t *taps) wait() { t.done.Wait() }
