package process

import (
	"context"
	crand "crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

const benchFrames, benchFrame = 512, 256 << 10 // 128 MiB

// cpu returns the CPU time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// frames makes a chain of incompressible frames, ended by a cut.
func frames(a *agent) []*nats.Msg {
	data := make([]byte, benchFrame)
	ms := []*nats.Msg{a.open("first")}
	for i := range benchFrames {
		_, _ = crand.Read(data)
		block := &wire.Block{Raw: benchFrame, Data: data, Extents: []wire.Extent{{Start: uint64(i) * benchFrame / wire.BlockSize, Count: benchFrame / wire.BlockSize}}}
		for j := 0; j < benchFrame; j += wire.BlockSize {
			s := wire.SumOf(data[j : j+wire.BlockSize])
			block.Sums = append(block.Sums, s[:]...)
		}
		ms = append(ms, a.message(&wire.Change{Block: block}))
	}
	return append(ms, a.message(&wire.Change{Cut: &wire.Cut{Point: "p", Group: "g", Consistency: wire.Crash, Size: benchFrames * benchFrame}}))
}

// flood publishes with at most 32 messages (8 MiB) under way.
func flood(b *testing.B, js jetstream.JetStream, ms []*nats.Msg) {
	under := make(chan jetstream.PubAckFuture, 32)
	var all sync.WaitGroup
	all.Go(func() {
		for f := range under {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				b.Error(err)
			}
		}
	})
	for _, m := range ms {
		f, err := js.PublishMsgAsync(m)
		if err != nil {
			b.Fatal(err)
		}
		under <- f
	}
	close(under)
	all.Wait()
}

// BenchmarkPublishToVault measures incompressible frames of 256 KiB from publish to
// the receipt of the last link, and in the same run what JetStream alone needs to
// move the same messages from a publisher to a consumer that acknowledges them.
func BenchmarkPublishToVault(b *testing.B) {
	r := newRig(b)
	ctx := context.Background()
	var jsTime, jsCPU, allTime, allCPU time.Duration
	runs := 0
	for b.Loop() {
		b.StopTimer()
		name := fmt.Sprintf("web%d", runs)
		runs++
		a := newAgent(b, r.b, name, "sda")
		ms := frames(a)
		pub := r.nats.Connect("publisher").JS

		cons, err := r.nats.Connect("plain").JS.Consumer(ctx, streams.Changes, streams.PartitionConsumer(streams.Partition(name, "sda")).Durable)
		if err != nil {
			b.Fatal(err)
		}
		got := make(chan struct{}, len(ms))
		cc, err := cons.Consume(func(m jetstream.Msg) { _ = m.Ack(); got <- struct{}{} }, jetstream.PullMaxBytes(16<<20), jetstream.PullPriorityGroup(streams.AnyGroup))
		if err != nil {
			b.Fatal(err)
		}
		began, used := time.Now(), cpu()
		flood(b, pub, ms)
		for range ms {
			<-got
		}
		jsTime, jsCPU = jsTime+time.Since(began), jsCPU+cpu()-used
		cc.Stop()
		r.empty()

		s, err := New(r.nats.Connect("process"), r.v, Default(), Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Start(ctx); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		began, used = time.Now(), cpu()
		flood(b, pub, ms)
		a.settled()
		allTime, allCPU = allTime+time.Since(began), allCPU+cpu()-used
		b.StopTimer()
		if n := a.resends(); n != 0 || s.Stats().Repeats != 0 {
			b.Fatalf("%d resends, %+v", n, s.Stats())
		}
		if err := s.Stop(ctx); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	mb := float64(runs) * benchFrames * benchFrame / 1e6
	gib := float64(runs) * benchFrames * benchFrame / (1 << 30)
	b.SetBytes(benchFrames * benchFrame)
	b.ReportMetric(mb/jsTime.Seconds(), "jetstream-MB/s")
	b.ReportMetric(mb/allTime.Seconds(), "vault-MB/s")
	b.ReportMetric(jsCPU.Seconds()/gib, "jetstream-cpu-s/GiB")
	b.ReportMetric(allCPU.Seconds()/gib, "vault-cpu-s/GiB")
	b.ReportMetric(jsTime.Seconds()/allTime.Seconds(), "speed-ratio")
}
