package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Pool names process servers that stand together, most often at another site, and the
// stream of changes that is theirs alone. What one pool handles no other does. The zero
// value is the pool that is always there.
//
// The disks of a pool are in the same partitions; only the partition's token in subjects
// is another: "west-07" instead of "07".
type Pool string

// MaxPool is the longest name of a pool.
const MaxPool = 16

// Validate reports why a pool cannot be named so.
func (p Pool) Validate() error {
	if p == "" {
		return nil
	}
	if err := ValidName("pool", string(p)); err != nil {
		return err
	}
	if len(p) > MaxPool || strings.ToLower(string(p)) != string(p) || strings.Contains(string(p), "_") {
		return fmt.Errorf("pool name %q: use at most %d small letters, digits and '-'", string(p), MaxPool)
	}
	return nil
}

// String is its name, for people.
func (p Pool) String() string {
	if p == "" {
		return "the default pool"
	}
	return string(p)
}

// Stream is the name of the pool's stream of changes.
func (p Pool) Stream() string {
	if p == "" {
		return Changes
	}
	return Changes + "-" + string(p)
}

// token stands for a partition in subjects.
func (p Pool) token(partition int) string {
	if p == "" {
		return fmt.Sprintf("%02d", partition)
	}
	return fmt.Sprintf("%s-%02d", string(p), partition)
}

// ChangesSubject is where a disk's changes are published for the pool.
func (p Pool) ChangesSubject(machine, disk string) string { return p.byDisk("changes", machine, disk) }

// PartitionSubject matches the changes of every disk of one partition of the pool.
func (p Pool) PartitionSubject(partition int) string {
	return root + ".changes." + p.token(partition) + ".>"
}

// SumsSubject is where the process server of the pool that owns a disk answers requests
// for block sums.
func (p Pool) SumsSubject(machine, disk string) string { return p.byDisk("sums", machine, disk) }

// SumsPartition matches the sums requests of every disk of one partition of the pool.
func (p Pool) SumsPartition(partition int) string {
	return root + ".sums." + p.token(partition) + ".>"
}

func (p Pool) byDisk(family, machine, disk string) string {
	return strings.Join([]string{root, family, p.token(Partition(machine, disk)), machine, disk}, ".")
}

// PartitionConsumer is PartitionConsumer of the pool's stream.
func (p Pool) PartitionConsumer(partition int) jetstream.ConsumerConfig {
	c := PartitionConsumer(partition)
	c.FilterSubject = p.PartitionSubject(partition)
	return c
}

// SharesKey is the key in Shares that says which of the pool's process servers owns which
// of its partitions.
func (p Pool) SharesKey() string {
	if p == "" {
		return SharesKey
	}
	return SharesKey + "." + string(p)
}

// BeatSubject is where the pool's process servers tell each other that they are alive.
func (p Pool) BeatSubject() string {
	if p == "" {
		return BeatSubject
	}
	return BeatSubject + "." + string(p)
}

// subjects are those of the pool's stream.
func (p Pool) subjects() (all []string) {
	for n := range Partitions {
		all = append(all, p.PartitionSubject(n))
	}
	return all
}

// parseToken takes the token of a partition apart.
func parseToken(t string) (p Pool, partition string) {
	if i := strings.LastIndexByte(t, '-'); i > 0 {
		return Pool(t[:i]), t[i+1:]
	}
	return "", t
}

// AnyChanges matches the subjects of a disk's changes in all pools.
func AnyChanges(machine, disk string) string {
	return strings.Join([]string{root, "changes", "*", machine, disk}, ".")
}

// PoolConfig says how a pool's stream is made.
type PoolConfig struct {
	Pool         Pool
	Cluster      string // of NATS servers that shall have it; "": those of the other streams
	Replicas     int
	ChangesBytes int64
}

// ParsePool reads NAME[@CLUSTER[:REPLICAS]]; what it does not say is as in c.
func ParsePool(text string, c Config) (PoolConfig, error) {
	name, where, placed := strings.Cut(text, "@")
	p := PoolConfig{Pool: Pool(name), Replicas: c.Replicas, ChangesBytes: c.ChangesBytes}
	err := p.Pool.Validate()
	if err == nil && name == "" {
		err = errors.New("it has no name")
	}
	if cluster, copies, ok := strings.Cut(where, ":"); err == nil && placed {
		p.Cluster = cluster
		if ok {
			p.Replicas, err = strconv.Atoi(copies)
		}
		if err == nil && cluster == "" {
			err = errors.New("the cluster has no name")
		}
	}
	if err == nil {
		err = Config{Replicas: p.Replicas, ChangesBytes: p.ChangesBytes}.Validate()
	}
	if err != nil {
		return p, fmt.Errorf("pool %q: %w: use NAME[@CLUSTER[:REPLICAS]]", text, err)
	}
	return p, nil
}

// EnsurePool creates or updates the stream and the consumers of a pool, after Ensure. The
// first one gives the stream Changes the subjects of its own pool alone, instead of all
// that could ever be; its messages, consumers and their positions stay as they are.
func EnsurePool(ctx context.Context, js jetstream.JetStream, c PoolConfig) error {
	if err := c.Pool.Validate(); err != nil {
		return err
	}
	if c.Pool == "" {
		return nil // Ensure has made it
	}
	if err := patiently(ctx, func(ctx context.Context) error { return narrow(ctx, js) }); err != nil {
		return fmt.Errorf("make room for pool %s beside stream %s: %w", c.Pool, Changes, err)
	}
	s := Config{Replicas: c.Replicas, ChangesBytes: c.ChangesBytes}.changes()
	s.Name, s.Subjects = c.Pool.Stream(), c.Pool.subjects()
	s.Description = "change blocks of the disks of pool " + string(c.Pool) + " until the vault holds them"
	if c.Cluster != "" {
		s.Placement = &jetstream.Placement{Cluster: c.Cluster}
	}
	if err := ensureStream(ctx, js, s, c.Replicas); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atATime)
	c.Pool.ensureConsumers(ctx, g, js)
	return g.Wait()
}

// ensureConsumers has g create or update the consumers of the pool's partitions.
func (p Pool) ensureConsumers(ctx context.Context, g *errgroup.Group, js jetstream.JetStream) {
	for n := range Partitions {
		g.Go(func() error {
			if err := patiently(ctx, func(ctx context.Context) error {
				return ensurePartition(ctx, js, p.Stream(), p.PartitionConsumer(n))
			}); err != nil {
				return fmt.Errorf("create consumer of partition %d of %s: %w", n, p.Stream(), err)
			}
			return nil
		})
	}
}

// narrow takes the subjects of other pools from the stream Changes.
func narrow(ctx context.Context, js jetstream.JetStream) error {
	st, err := js.Stream(ctx, Changes)
	if err != nil {
		return err
	}
	c := st.CachedInfo().Config
	if narrowed(c) {
		return nil
	}
	c.Subjects = Pool("").subjects()
	_, err = js.UpdateStream(ctx, c)
	return err
}

// narrowed reports whether the stream Changes leaves room for pools.
func narrowed(c jetstream.StreamConfig) bool { return !slices.Contains(c.Subjects, allChanges) }

// allChanges are the changes of all pools.
const allChanges = root + ".changes.>"

// Pools lists the pools whose streams exist, the one that is always there first.
func Pools(ctx context.Context, js jetstream.JetStream) ([]Pool, error) {
	all := []Pool{""}
	l := js.StreamNames(ctx, jetstream.WithStreamListSubject(allChanges))
	for name := range l.Name() {
		if p, ok := strings.CutPrefix(name, Changes+"-"); ok {
			all = append(all, Pool(p))
		}
	}
	slices.Sort(all)
	if err := l.Err(); err != nil {
		return nil, fmt.Errorf("list the streams of changes: %w", err)
	}
	return all, nil
}

// LastSequence returns where the last message of a subject is in a stream, 0 if there is
// none. It asks for no more than that message, which is all that an agent may.
func LastSequence(ctx context.Context, nc *nats.Conn, stream, subject string) (uint64, error) {
	m, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return 0, fmt.Errorf("ask stream %s for the last message of %s: %w", stream, subject, err)
	}
	if status := m.Header.Get("Status"); status != "" {
		if status == "404" {
			return 0, nil
		}
		return 0, fmt.Errorf("ask stream %s for the last message of %s: %s %s", stream, subject, status, m.Header.Get("Description"))
	}
	n, err := strconv.ParseUint(m.Header.Get(sequenceHeader), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("ask stream %s for the last message of %s: the answer has no place in it", stream, subject)
	}
	return n, nil
}
