package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// FollowOptions says from where on a stream is read.
type FollowOptions struct {
	Name string // the names of its consumers begin with it, for people
	// Policy is DeliverLastPerSubjectPolicy, DeliverAllPolicy or
	// DeliverByStartSequencePolicy, which begins at Start.
	Policy jetstream.DeliverPolicy
	Start  uint64
	Log    *slog.Logger // nil: silent
}

// Follower hands over the messages of a stream, in order and each of them once, until
// it is stopped, whichever servers come and go.
//
// It reads by consumers that have one copy and no memory of what was read. Such a
// consumer lives on one node: it is silent while that node is cut off, and behind while
// the node catches up. So each has a name of its own, which nobody has used before: one
// that is asked for again by the same name is looked for where it was, also by another
// process. And when a consumer is silent, or the stream's leader knows of messages that
// it did not bring, the next is made, which may come to be on another node.
type Follower struct {
	js     jetstream.JetStream
	stream string
	o      FollowOptions
	fn     func(jetstream.Msg)

	stop  context.CancelFunc
	done  chan struct{}
	drops sync.WaitGroup // consumers that are being deleted

	// Owned by the goroutine that reads:
	cursor  uint64 // sequence of the last message handed over; 0: none
	missing uint64 // what the leader had as its newest when nothing came
	idle    int    // looks in a row at which that had not come
	patient int    // looks that are waited for it
}

const (
	followBatch = 256
	// followWait is how long the server keeps a request for messages, and how long it is
	// quiet before the leader is asked whether there is more. Heartbeats come at
	// followBeat; two that are missing mean that the consumer is gone.
	followWait = 4 * time.Second
	followBeat = 1500 * time.Millisecond
	// A question without an answer was asked of somebody who is cut off, or while there
	// was no leader: it is asked again soon, and anew.
	followAsk      = 2 * time.Second
	followPause    = 100 * time.Millisecond
	followPauseMax = time.Second
	followPatience = 12 // looks at most
	// followIdle is how long the server keeps a consumer that nobody asks, followBye how
	// long Stop waits for one to be deleted before.
	followIdle = time.Minute
	followBye  = 500 * time.Millisecond
)

var (
	errNotInOrder = errors.New("a message is missing")
	errBehind     = errors.New("the stream has more than its consumer brings")
	errLostTail   = errors.New("the stream has lost its newest messages: it is read again from the beginning")
)

// Follow starts to read a stream. It returns when the first consumer stands, or with an
// error when ctx ends before. fn is called by one goroutine.
func Follow(ctx context.Context, js jetstream.JetStream, stream string, o FollowOptions, fn func(jetstream.Msg)) (*Follower, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &Follower{js: js, stream: stream, o: o, fn: fn, done: make(chan struct{}), patient: 1}
	c, err := f.consumer(ctx)
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", stream, err)
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = stop
	go f.run(run, c)
	return f, nil
}

// Stop ends reading and waits until fn has returned for the last time.
func (f *Follower) Stop() {
	f.stop()
	<-f.done
}

func (f *Follower) run(ctx context.Context, c jetstream.Consumer) {
	defer close(f.done)
	defer f.drops.Wait()
	for {
		err := f.read(ctx, c)
		if ctx.Err() != nil {
			f.drop(c, followBye)
			return
		}
		f.drop(c, followAsk)
		f.o.Log.Debug("a stream is followed by another consumer", "stream", f.stream, "err", err)
		if errors.Is(err, errLostTail) {
			f.cursor = 0
		}
		if c, err = f.consumer(ctx); err != nil {
			return // ctx has ended
		}
	}
}

// read hands over what a consumer brings until something is wrong with it.
func (f *Follower) read(ctx context.Context, c jetstream.Consumer) error {
	for delivered := uint64(0); ; {
		wait, cancel := context.WithTimeout(ctx, followWait)
		n, err := f.fetch(wait, c, &delivered)
		cancel()
		if err == nil && n == 0 {
			err = f.ask(ctx)
		}
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// fetch hands over what comes until ctx ends. delivered is how many messages the
// consumer has brought.
func (f *Follower) fetch(ctx context.Context, c jetstream.Consumer, delivered *uint64) (n int, err error) {
	batch, err := c.Fetch(followBatch, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(followBeat))
	if err != nil {
		return 0, err
	}
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return n, err
		}
		if meta.Sequence.Consumer != *delivered+1 {
			return n, errNotInOrder
		}
		*delivered++
		f.fn(m)
		f.cursor = meta.Sequence.Stream
		f.patient, f.idle = 1, 0
		n++
	}
	if err := batch.Error(); !errors.Is(err, context.DeadlineExceeded) {
		return n, err
	}
	return n, nil
}

// ask asks the stream's leader whether it has messages that did not come.
func (f *Follower) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, followAsk)
	defer cancel()
	s, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		return nil // it has no leader now, or none that we reach: nothing is known
	}
	st := s.CachedInfo().State
	switch {
	case st.LastSeq < f.cursor:
		return errLostTail // numbers are given again: what comes under them is new
	case st.Msgs == 0 || st.LastSeq <= f.cursor:
		f.idle = 0
		return nil
	}
	if f.idle == 0 {
		f.missing = st.LastSeq
	}
	if f.idle++; f.idle <= f.patient || f.cursor >= f.missing {
		return nil
	}
	// If even the next consumer does not bring it, it may have been deleted.
	f.idle, f.patient = 0, min(2*f.patient, followPatience)
	return errBehind
}

// consumer makes the next consumer, trying until ctx ends.
func (f *Follower) consumer(ctx context.Context) (c jetstream.Consumer, err error) {
	for pause := followPause; ; pause = min(2*pause, followPauseMax) {
		short, cancel := context.WithTimeout(ctx, followAsk)
		c, err = f.js.CreateConsumer(short, f.stream, f.config())
		cancel()
		if err == nil {
			return c, nil
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, errors.Join(err, context.Cause(ctx))
		}
		f.o.Log.Debug("a stream cannot be followed, trying again", "stream", f.stream, "err", err)
	}
}

func (f *Follower) config() jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Name:      f.o.Name + "-" + strings.ToLower(rand.Text()),
		AckPolicy: jetstream.AckNonePolicy, Replicas: 1, MemoryStorage: true, InactiveThreshold: followIdle,
	}
	switch {
	case f.cursor > 0:
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.cursor+1
	case f.o.Policy == jetstream.DeliverByStartSequencePolicy:
		c.DeliverPolicy, c.OptStartSeq = f.o.Policy, max(1, f.o.Start)
	case f.o.Policy == jetstream.DeliverLastPerSubjectPolicy:
		c.DeliverPolicy, c.FilterSubject = f.o.Policy, ">"
	default:
		c.DeliverPolicy = f.o.Policy
	}
	return c
}

// drop deletes a consumer, in the background: one that cannot be reached is deleted by
// its node when nobody has asked it for a while.
func (f *Follower) drop(c jetstream.Consumer, patience time.Duration) {
	f.drops.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = f.js.DeleteConsumer(ctx, f.stream, c.CachedInfo().Name)
	})
}
