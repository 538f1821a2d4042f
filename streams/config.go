package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Config sizes the streams.
type Config struct {
	Replicas     int   // copies of each stream: 1 on the appliance, 3 on a cluster
	ChangesBytes int64 // bytes CHANGES may hold before agents are slowed down
}

// Default is what the appliance uses.
func Default() Config { return Config{Replicas: 1, ChangesBytes: 8 << 30} }

// Validate names the field that cannot work.
func (c Config) Validate() error {
	if c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5 {
		return fmt.Errorf("streams.replicas is %d: use 1, 3 or 5", c.Replicas)
	}
	if c.ChangesBytes < 64<<20 {
		return fmt.Errorf("streams.changes_bytes is %d: use at least 64 MiB", c.ChangesBytes)
	}
	return nil
}

// MaxMessage is the largest message of CHANGES in bytes. The server's
// max_payload default of 1 MiB is enough.
const MaxMessage = 1 << 20

// DedupWindow is how long JetStream remembers a Nats-Msg-Id. The chain makes a
// repeat harmless beyond it.
const DedupWindow = 2 * time.Minute

// diskPart is the part of CHANGES that one disk may fill with frames of full size.
const diskPart = 4

// perDisk is how many messages of one disk CHANGES may hold.
func (c Config) perDisk() int64 {
	const frame = 256 << 10
	return max(64, c.ChangesBytes/diskPart/frame)
}

// Streams lists the stream configurations for c.
func (c Config) Streams() []jetstream.StreamConfig {
	small := func(name, subject, about string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Subjects: []string{subject}, Description: about,
			Storage: jetstream.FileStorage, Replicas: c.Replicas,
			Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
			Duplicates: DedupWindow, AllowDirect: true,
		}
	}
	markers := small(Markers, root+".markers.>", "consistency markers of every group")
	markers.MaxAge = 30 * 24 * time.Hour
	receipts := small(Receipts, root+".receipts.>", "what the vault holds of every disk")
	receipts.MaxMsgsPerSubject = 1024
	events := small(Events, root+".events.>", "what happened, for operators")
	events.MaxAge, events.MaxBytes = 90*24*time.Hour, 256<<20
	audit := small(Audit, root+".audit.>", "who did what, never to be changed")
	audit.MaxAge, audit.MaxBytes, audit.DenyDelete, audit.DenyPurge = 400*24*time.Hour, 256<<20, true, true
	return []jetstream.StreamConfig{c.changes(), markers, receipts, events, audit}
}

// changes is the stream of the pool that is always there.
func (c Config) changes() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: Changes, Subjects: []string{allChanges},
		Description: "change blocks of every disk until the vault holds them",
		Storage:     jetstream.FileStorage, Replicas: c.Replicas,
		// A work queue that refuses new messages when full: overload slows the
		// agent down, it never loses a change.
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
		MaxBytes: c.ChangesBytes, MaxMsgSize: MaxMessage, Duplicates: DedupWindow,
		// One disk that does not drain (its part of the vault is damaged, or it is huge)
		// must not take the room of all others.
		MaxMsgsPerSubject: c.perDisk(), DiscardNewPerSubject: true,
		// No RePublish for taps: the server would load the last message of the disk for each
		// that comes. Process servers tell taps what goes by.
		AllowDirect: true,
	}
}

// AnyGroup is the priority group for pulls by hand and by process servers that
// share nothing. Every pull of a partition's consumer must name a group.
const AnyGroup = "any"

// PartitionConsumer is the durable pull consumer of partition p of CHANGES.
// Messages are acknowledged one by one, after the vault holds them.
//
// Its priority groups are AnyGroup and, once a process server owns the partition,
// that server's: a pull that names another is refused, so one who lost a partition
// is not served. Ensure leaves the groups as they are.
func PartitionConsumer(p int) jetstream.ConsumerConfig {
	name := fmt.Sprintf("process-%02d", p)
	return jetstream.ConsumerConfig{
		Durable: name, Name: name, FilterSubject: PartitionSubject(p),
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
		MaxAckPending: 4096, MaxWaiting: 64,
		PriorityPolicy: jetstream.PriorityPolicyOverflow, PriorityGroups: []string{AnyGroup},
	}
}

// Ensure creates or updates every stream, bucket and partition consumer. It raises
// replicas and never lowers them. It is safe to call it from several processes at
// once.
func Ensure(ctx context.Context, js jetstream.JetStream, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	// In a cluster each takes a round of its own; a few at a time do not wait for
	// each other.
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atATime)
	for _, s := range c.Streams() {
		g.Go(func() error { return ensureStream(gctx, js, s, c.Replicas) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	g, gctx = errgroup.WithContext(ctx)
	g.SetLimit(atATime)
	Pool("").ensureConsumers(gctx, g, js)
	for _, b := range c.buckets() {
		g.Go(func() error {
			err := patiently(gctx, func(ctx context.Context) (err error) {
				if b.Replicas, err = replicas(ctx, js, "KV_"+b.Bucket, c.Replicas); err == nil {
					_, err = js.CreateOrUpdateKeyValue(ctx, b)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("create bucket %s: %w", b.Bucket, err)
			}
			return nil
		})
	}
	g.Go(func() error { return ensureBook(gctx, js, c) })
	return g.Wait()
}

// ensureStream creates or updates a stream.
func ensureStream(ctx context.Context, js jetstream.JetStream, s jetstream.StreamConfig, copies int) error {
	err := patiently(ctx, func(ctx context.Context) (err error) {
		if s.Replicas, err = replicas(ctx, js, s.Name, copies); err == nil && s.Retention == jetstream.WorkQueuePolicy {
			err = spare(ctx, js, &s)
		}
		if err == nil {
			_, err = js.CreateOrUpdateStream(ctx, s)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("create stream %s: %w", s.Name, err)
	}
	return nil
}

// atATime is how many streams, buckets or consumers are made at a time.
const atATime = 8

// storeTries is how often a stream is asked for whose store the server cannot make. Its
// answer does not say why (its log does), and a disk that is busy or full for a moment
// looks like one that cannot be written to.
const storeTries = 10

// patiently does try again while a cluster has no leader or not all of its nodes,
// until ctx ends, and storeTries times where a store cannot be made. Requests that
// nobody takes are not answered, so each has its time.
func patiently(ctx context.Context, try func(context.Context) error) error {
	for stores := 0; ; {
		c, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := try(c)
		late := c.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		pause := 200 * time.Millisecond
		switch code, _ := apiCode(err); {
		case late, code == codeNoQuorum, code == codeNoPeers, code == codeInsufficient:
		case code == codeCreateFailed:
			if stores++; stores == storeTries {
				return fmt.Errorf("%w, %d times; the log of the NATS server says why: look at the free space, the permissions and the health of the disk with its store", err, stores)
			}
			pause *= time.Duration(stores)
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// spare leaves as they are what pools beside Changes need, and the bound for each disk in a
// stream that has more messages than the new one allows: the server would make them fit by
// dropping the oldest. The next Ensure that finds fewer sets it.
func spare(ctx context.Context, js jetstream.JetStream, s *jetstream.StreamConfig) error {
	old, err := js.Stream(ctx, s.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	i := old.CachedInfo()
	if s.Name == Changes && narrowed(i.Config) {
		s.Subjects = i.Config.Subjects // there are pools beside it
	}
	have := i.Config.MaxMsgsPerSubject
	if (have <= 0 || have > s.MaxMsgsPerSubject) && i.State.Msgs > uint64(s.MaxMsgsPerSubject) {
		s.MaxMsgsPerSubject, s.DiscardNewPerSubject = have, i.Config.DiscardNewPerSubject
	}
	return nil
}

// replicas returns want, or what the stream has if that is more.
func replicas(ctx context.Context, js jetstream.JetStream, name string, want int) (int, error) {
	s, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return want, nil
	}
	if err != nil {
		return 0, err
	}
	return max(want, s.CachedInfo().Config.Replicas), nil
}

func (c Config) buckets() []jetstream.KeyValueConfig {
	return []jetstream.KeyValueConfig{
		{
			Bucket: Leases, Description: "which agent instance protects a disk",
			TTL: LeaseTTL, Storage: jetstream.FileStorage, Replicas: c.Replicas,
		},
		{
			Bucket: Roles, Description: "which of several processes does what only one may do",
			TTL: LeaseTTL, Storage: jetstream.FileStorage, Replicas: c.Replicas,
		},
		sharesBucket(c.Replicas),
		{
			Bucket: Fences, Description: "whose changes nobody may write, or only one",
			History: 16, Storage: jetstream.FileStorage, Replicas: c.Replicas,
		},
	}
}

func sharesBucket(replicas int) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: Shares, Description: "which process server owns which partition",
		History: 8, Storage: jetstream.FileStorage, Replicas: replicas,
	}
}

// ensurePartition creates or updates a partition's consumer without taking it from
// its owner.
func ensurePartition(ctx context.Context, js jetstream.JetStream, stream string, c jetstream.ConsumerConfig) error {
	_, err := js.CreateConsumer(ctx, stream, c)
	if !errors.Is(err, jetstream.ErrConsumerExists) {
		return err
	}
	old, err := js.Consumer(ctx, stream, c.Durable)
	if err != nil {
		return err
	}
	have := old.CachedInfo().Config
	if have.AckPolicy == c.AckPolicy && have.AckWait == c.AckWait && have.MaxAckPending == c.MaxAckPending &&
		have.PriorityPolicy == c.PriorityPolicy && len(have.PriorityGroups) > 0 {
		return nil // in a cluster an update costs a round of all nodes
	}
	if len(have.PriorityGroups) > 0 {
		c.PriorityGroups = have.PriorityGroups
	}
	_, err = js.UpdateConsumer(ctx, stream, c)
	return err
}

// EnsureShares creates the bucket Shares alone. It holds one small key, which
// process servers write anew when it is gone.
func EnsureShares(ctx context.Context, js jetstream.JetStream, replicas int) error {
	return ensureBucket(ctx, js, sharesBucket(replicas))
}

// LeaseTTL is how long a hold on a disk or a role outlives its last renewal.
const LeaseTTL = 15 * time.Second

// LeaseKey is the key of a disk in the Leases bucket.
func LeaseKey(machine, disk string) string { return machine + "." + disk }
