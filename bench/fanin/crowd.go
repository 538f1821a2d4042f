package fanin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// diskSize is what each simulated disk claims to be.
const diskSize = 64 << 20

// conns is how many connections the crowd shares, and window how many messages each
// may have under way.
const (
	conns  = 8
	window = 256
)

// disk is one chain.
type disk struct {
	name   string
	number uint64
	hash   wire.Hash
}

// machine is a simulated one.
type machine struct {
	name   string
	disks  []*disk
	rounds int
}

// crowd is all of them.
type crowd struct {
	site     *bus.Bus // as operator: hears of points
	buses    []*bus.Bus
	machines []*machine

	mu     sync.Mutex
	sent   map[string]time.Time     // points whose marker is on the bus, by machine
	took   map[string]time.Duration // from there until they were listed
	listed int
}

func newCrowd(ctx context.Context, agentContext string, site *bus.Bus) (*crowd, error) {
	c := &crowd{site: site, sent: map[string]time.Time{}, took: map[string]time.Duration{}}
	for range conns {
		b, err := bus.Connect(ctx, bus.Options{Name: "fan-in", Context: agentContext})
		if err != nil {
			c.close()
			return nil, err
		}
		c.buses = append(c.buses, b)
	}
	_, err := site.Conn.Subscribe(streams.EventsSubject("*", "point"), func(m *nats.Msg) {
		name := strings.Split(m.Subject, ".")[2]
		c.mu.Lock()
		defer c.mu.Unlock()
		if at, ok := c.sent[name]; ok {
			c.took[name] = time.Since(at)
			delete(c.sent, name)
			c.listed++
		}
	})
	return c, err
}

func (c *crowd) close() {
	for _, b := range c.buses {
		b.Close()
	}
}

// grow adds machines until there are so many.
func (c *crowd) grow(machines, disks int) (added []*machine) {
	for len(c.machines) < machines {
		m := &machine{name: fmt.Sprintf("m%05d", len(c.machines))}
		for i := range disks {
			m.disks = append(m.disks, &disk{name: fmt.Sprintf("d%d", i)})
		}
		c.machines = append(c.machines, m)
		added = append(added, m)
	}
	return added
}

// round has every machine change a block of every disk and cut. With a pace, machines
// begin evenly over that time; without, all as fast as the bus takes it. It returns
// when every point is listed, with how long each took from its marker.
func (c *crowd) round(ctx context.Context, all []*machine, pace time.Duration) (took []time.Duration, err error) {
	c.mu.Lock()
	c.listed, c.took = 0, map[string]time.Duration{}
	c.mu.Unlock()
	began := time.Now()
	work := make(chan int)
	ended := make(chan error, conns)
	for _, b := range c.buses {
		go func() { ended <- c.send(ctx, b, all, work) }()
	}
	for i := range all {
		if at := began.Add(pace * time.Duration(i) / time.Duration(len(all))); pace > 0 {
			t := time.NewTimer(time.Until(at))
			select {
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
		}
		select {
		case work <- i:
		case e := <-ended: // for ever less of them take work; the error ends the round
			return nil, e
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	close(work)
	for range conns {
		err = errors.Join(err, <-ended)
	}
	if err != nil {
		return nil, err
	}
	last := -1
	err = rig.Poll(ctx, 5*time.Millisecond, func() (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		last = c.listed
		return c.listed == len(all), nil
	})
	if err != nil {
		return nil, fmt.Errorf("%d of %d points were listed: %w", last, len(all), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.took {
		took = append(took, d)
	}
	return took, nil
}

// send makes the round of the machines that it is given.
func (c *crowd) send(ctx context.Context, b *bus.Bus, all []*machine, work <-chan int) error {
	js, err := jetstream.New(b.Conn, jetstream.WithPublishAsyncMaxPending(window), jetstream.WithPublishAsyncTimeout(time.Minute))
	if err != nil {
		return err
	}
	for i := range work {
		if err := c.one(ctx, js, all[i]); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// one is a machine's round: changes, cuts, and when the bus has them, the marker.
func (c *crowd) one(ctx context.Context, js jetstream.JetStream, m *machine) error {
	m.rounds++
	now := time.Now()
	id := fmt.Sprintf("%s-%s%d", now.UTC().Format("20060102T150405"), m.name, m.rounds)
	mark := &wire.Marker{ID: id, Group: m.name, Time: now.UnixNano(), Consistency: wire.Crash, Members: []wire.Member{{
		Machine: m.name, Facts: wire.Facts{Host: m.name, CPUs: 2, Memory: 4 << 30, Firmware: "uefi"},
	}}}
	var acks []jetstream.PubAckFuture
	for _, d := range m.disks {
		links := []*wire.Change{block(m.rounds), {Kind: wire.KindCut, Cut: &wire.Cut{Point: id, Group: m.name, Time: now.UnixNano(), Consistency: wire.Crash, Size: diskSize}}}
		if d.number == 0 {
			links = append([]*wire.Change{{Kind: wire.KindOpen, Open: &wire.Open{Size: diskSize, Capture: "simulated", Guarantee: "none", Reason: "bench"}}}, links...)
		}
		for _, l := range links {
			ack, err := d.publish(js, m.name, l)
			if err != nil {
				return err
			}
			acks = append(acks, ack)
		}
		mark.Members[0].Disks = append(mark.Members[0].Disks, wire.DiskCut{Disk: d.name, Epoch: 1, Number: d.number, Size: diskSize})
	}
	for _, a := range acks {
		select {
		case <-a.Ok():
		case err := <-a.Err():
			return fmt.Errorf("%s: %w", a.Msg().Subject, err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	b, err := wire.Encode(mark)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.sent[m.name] = time.Now()
	c.mu.Unlock()
	_, err = js.PublishAsync(streams.MarkersSubject(m.name), b, jetstream.WithMsgID("marker-"+id))
	return err
}

// block is a change of one block, another one each round.
func block(round int) *wire.Change {
	data := make([]byte, wire.BlockSize)
	_, _ = rand.Read(data) // never fails
	sum := wire.SumOf(data)
	return &wire.Change{Kind: wire.KindBlock, Block: &wire.Block{
		Raw: wire.BlockSize, Extents: []wire.Extent{{Start: uint64(round) % (diskSize / wire.BlockSize), Count: 1}}, Sums: sum[:], Data: data,
	}}
}

// publish sends the next link of the chain.
func (d *disk) publish(js jetstream.JetStream, machine string, c *wire.Change) (jetstream.PubAckFuture, error) {
	c.Machine, c.Disk, c.Epoch, c.Number, c.Prev, c.Time = machine, d.name, 1, d.number+1, d.hash, time.Now().UnixNano()
	p, err := wire.Encode(c)
	if err != nil {
		return nil, err
	}
	d.number, d.hash = c.Number, wire.LinkHash(c, p)
	msg := nats.NewMsg(streams.ChangesSubject(machine, d.name))
	msg.Data, msg.Header = p, nats.Header(wire.Headers(c))
	msg.Header.Set(jetstream.MsgIDHeader, wire.MsgID(c))
	return js.PublishMsgAsync(msg)
}
