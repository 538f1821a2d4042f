package limits

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/embed"
	"github.com/leeward-dr/leeward/streams/bus"
)

// under is how many bytes the publisher lets be under way.
const under = 8 << 20

// Stream publishes total bytes of incompressible messages of size bytes each to a
// JetStream work queue on files in dir, over a socket, and consumes and acknowledges
// them inside the server's process at the same time: what the product does, without
// the product.
func Stream(ctx context.Context, dir string, size int, total int64) Limit {
	l := Limit{Name: JetStream, How: fmt.Sprintf("publish over TCP and consume, file storage, work queue, messages of %d bytes, incompressible", size)}
	n, took, err := stream(ctx, filepath.Join(dir, "jetstream"), size, total)
	l.set(n, took, err)
	return l
}

func stream(ctx context.Context, dir string, size int, total int64) (n int64, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	defer os.RemoveAll(dir)
	cfg := embed.Default()
	cfg.Dir, cfg.Listen = dir, "127.0.0.1:-1"
	server, err := embed.Start(ctx, cfg)
	if err != nil {
		return 0, 0, err
	}
	defer server.Stop(context.WithoutCancel(ctx))
	inside, err := server.Connect(ctx, embed.Admin)
	if err != nil {
		return 0, 0, err
	}
	outside, err := bus.Connect(ctx, bus.Options{Name: "publisher", URL: server.ClientURL(), CredsFile: server.CredsFile(embed.Admin)})
	if err != nil {
		return 0, 0, err
	}
	defer outside.Close()
	queue, err := inside.JS.CreateStream(ctx, jetstream.StreamConfig{
		Name: "LIMIT", Subjects: []string{"limit"}, Storage: jetstream.FileStorage, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
	})
	if err != nil {
		return 0, 0, fmt.Errorf("make stream: %w", err)
	}
	consumer, err := queue.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "limit", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 4096})
	if err != nil {
		return 0, 0, fmt.Errorf("make consumer: %w", err)
	}
	count := max(1, total/int64(size))
	var got atomic.Int64
	all := make(chan struct{})
	began := time.Now()
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if m.Ack() == nil && got.Add(1) == count {
			close(all)
		}
	}, jetstream.PullMaxBytes(4<<20))
	if err != nil {
		return 0, 0, fmt.Errorf("consume: %w", err)
	}
	defer consuming.Stop()
	if err := publish(ctx, outside, count, size); err != nil {
		return 0, 0, err
	}
	select {
	case <-all:
		return count * int64(size), time.Since(began), nil
	case <-ctx.Done():
		return 0, 0, fmt.Errorf("consumed %d of %d messages: %w", got.Load(), count, context.Cause(ctx))
	}
}

// publish sends count messages and waits for their acknowledgements.
func publish(ctx context.Context, b *bus.Bus, count int64, size int) error {
	payload := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(payload)
	window := make(chan jetstream.PubAckFuture, max(1, under/size))
	await := func(f jetstream.PubAckFuture) error {
		select {
		case <-f.Ok():
			return nil
		case err := <-f.Err():
			return fmt.Errorf("publish: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for i := range count {
		if len(window) == cap(window) {
			if err := await(<-window); err != nil {
				return err
			}
		}
		payload[i%int64(size)]++
		f, err := b.JS.PublishAsync("limit", payload)
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		window <- f
	}
	for len(window) > 0 {
		if err := await(<-window); err != nil {
			return err
		}
	}
	return nil
}
