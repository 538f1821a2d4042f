package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
)

// Holder says who holds a lease. It stands in the bucket as JSON, so that
// `nats kv get` shows it.
type Holder struct {
	Instance string    `json:"instance"` // random id of the agent process
	Host     string    `json:"host"`     // for people
	PID      int       `json:"pid"`
	Since    time.Time `json:"since"`
	// Scope and Started make PID meaningful: the running kernel and process
	// namespace it belongs to, and when that process started. See Alive.
	Scope   string `json:"scope,omitempty"`
	Started uint64 `json:"started,omitempty"`
}

// LeaseOptions changes how a lease is acquired.
type LeaseOptions struct {
	// TakeOver takes the lease from a living holder, which then finds it lost.
	TakeOver bool
	// Alive reports whether a holder may still run; its lease is taken at once
	// only if not. Default: the function Alive.
	Alive func(Holder) bool
	Log   *slog.Logger // nil: silent
}

// ErrHeld is what a HeldError is, for errors.Is.
var ErrHeld = errors.New("already protected")

// HeldError says that a disk is protected by somebody else.
type HeldError struct {
	Machine, Disk string
	Holder        Holder
}

// Error names the holder and what to try.
func (e *HeldError) Error() string {
	if e.Machine == "" {
		return fmt.Sprintf("role %s is held by process %d on %s (instance %s, since %s)",
			e.Disk, e.Holder.PID, e.Holder.Host, e.Holder.Instance, e.Holder.Since.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("disk %s of %s is already protected by process %d on %s (instance %s, since %s): stop that agent, or take over with --take-over",
		e.Disk, e.Machine, e.Holder.PID, e.Holder.Host, e.Holder.Instance, e.Holder.Since.UTC().Format(time.RFC3339))
}

// Is makes errors.Is(err, ErrHeld) work.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// Lease is a held lease. It is renewed until Release, or until it is lost.
type Lease struct {
	kv            jetstream.KeyValue
	bucket        string
	machine, disk string // machine is empty: disk is a role
	key           string
	value         []byte
	holder        Holder
	log           *slog.Logger
	ttl, every    time.Duration

	stop context.CancelFunc
	done chan struct{}
	lost chan struct{}

	mu  sync.Mutex
	rev uint64
	to  Holder
}

// AcquireLease takes the lease of a disk or says who holds it (*HeldError). A
// lease whose holder stopped renewing expires by itself after the bucket's TTL
// (streams.LeaseTTL); one whose holder is known to be dead is taken at once.
// ctx bounds the acquisition only.
func AcquireLease(ctx context.Context, js jetstream.JetStream, machine, disk string, h Holder, o LeaseOptions) (*Lease, error) {
	if h.Instance == "" {
		return nil, fmt.Errorf("lease of %s/%s: the holder has no instance id", machine, disk)
	}
	for kind, name := range map[string]string{"machine": machine, "disk": disk} {
		if err := streams.ValidName(kind, name); err != nil {
			return nil, err
		}
	}
	return acquire(ctx, js, &Lease{bucket: streams.Leases, machine: machine, disk: disk, key: streams.LeaseKey(machine, disk), holder: h}, o)
}

// AcquireRole takes the lease of a role that only one process may have at a time, or
// says who has it (*HeldError with Disk set to the role). Unlike the lease of a disk
// it is lost, too, when it could not be renewed for as long as it lives: then
// somebody else may have it.
func AcquireRole(ctx context.Context, js jetstream.JetStream, role string, h Holder, o LeaseOptions) (*Lease, error) {
	if h.Instance == "" {
		return nil, fmt.Errorf("role %s: the holder has no instance id", role)
	}
	if err := streams.ValidName("role", role); err != nil {
		return nil, err
	}
	return acquire(ctx, js, &Lease{bucket: streams.Roles, disk: role, key: role, holder: h}, o)
}

func acquire(ctx context.Context, js jetstream.JetStream, l *Lease, o LeaseOptions) (*Lease, error) {
	if o.Alive == nil {
		o.Alive = Alive
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l.log, l.done, l.lost = o.Log, make(chan struct{}), make(chan struct{})
	machine, disk := l.machine, l.disk
	if err := l.open(ctx, js); err != nil {
		return nil, fmt.Errorf("lease of %s/%s: %w", machine, disk, err)
	}
	// Between looking and taking somebody else may win; a few rounds settle it.
	var err error
	for range 5 {
		var again bool
		if again, err = l.try(ctx, o); !again {
			break
		}
	}
	if err != nil {
		var held *HeldError
		if errors.As(err, &held) {
			return nil, held
		}
		return nil, fmt.Errorf("lease of %s/%s: %w", machine, disk, err)
	}
	run, stop := context.WithCancel(context.Background())
	l.stop = stop
	go l.renew(run)
	return l, nil
}

func (l *Lease) open(ctx context.Context, js jetstream.JetStream) (err error) {
	if l.value, err = json.Marshal(l.holder); err != nil {
		return err
	}
	if l.kv, err = js.KeyValue(ctx, l.bucket); err != nil {
		return fmt.Errorf("open bucket %s: %w", l.bucket, err)
	}
	status, err := l.kv.Status(ctx)
	if err != nil {
		return fmt.Errorf("read the settings of bucket %s: %w", l.bucket, err)
	}
	if status.TTL() <= 0 {
		return fmt.Errorf("bucket %s has no TTL, so a dead holder would keep its leases: start `leeward up` once, which sets it", l.bucket)
	}
	l.ttl, l.every = status.TTL(), status.TTL()/3
	return nil
}

// try is one look and one attempt. It asks for another when the key changed in
// between or the answer was lost.
func (l *Lease) try(ctx context.Context, o LeaseOptions) (again bool, err error) {
	old, rev, err := l.look(ctx)
	if err != nil {
		return false, err
	}
	if old != nil && old.Instance != l.holder.Instance {
		if !o.TakeOver && o.Alive(*old) {
			return false, &HeldError{Machine: l.machine, Disk: l.disk, Holder: *old}
		}
		l.log.Warn("taking over the lease", "machine", l.machine, "disk", l.disk,
			"host", old.Host, "pid", old.PID, "instance", old.Instance, "forced", o.TakeOver)
	}
	if l.rev, err = l.put(ctx, rev); err == nil {
		return false, nil
	}
	return ctx.Err() == nil && (conflict(err) || streams.Retryable(err)), err
}

// look returns who holds the key; nil and revision 0 if nobody does.
func (l *Lease) look(ctx context.Context) (*Holder, uint64, error) {
	e, err := l.kv.Get(ctx, l.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // also ErrKeyDeleted: Get folds it
		return nil, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("read it: %w", err)
	}
	var h Holder
	if err := json.Unmarshal(e.Value(), &h); err != nil {
		// Not written by us; it still counts as held until it expires.
		h = Holder{Instance: "unreadable", Host: "an unknown host"}
	}
	return &h, e.Revision(), nil
}

func (l *Lease) put(ctx context.Context, rev uint64) (uint64, error) {
	if rev == 0 {
		return l.kv.Create(ctx, l.key, l.value)
	}
	return l.kv.Update(ctx, l.key, l.value, rev)
}

// conflict reports that the key changed since it was looked at.
func conflict(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

func (l *Lease) renew(ctx context.Context) {
	defer close(l.done)
	t := time.NewTicker(l.every)
	defer t.Stop()
	renewed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		began := time.Now()
		to, ok := l.keep(ctx)
		if ok {
			renewed = began
		} else if to == nil && l.machine == "" && time.Since(renewed) > l.ttl-l.every && ctx.Err() == nil {
			to = &Holder{} // nobody knows who
		}
		if to != nil {
			l.mu.Lock()
			l.to = *to
			l.mu.Unlock()
			l.log.Warn("lost the lease", "machine", l.machine, "disk", l.disk,
				"host", to.Host, "pid", to.PID, "instance", to.Instance)
			close(l.lost)
			return
		}
	}
}

// keep renews once, reports whether it did, and returns the new holder if the lease
// is somebody else's.
// Without an answer from the server the lease is kept: whether it was lost shows
// at the next answer, and until then nothing can be published either.
func (l *Lease) keep(ctx context.Context) (*Holder, bool) {
	ctx, cancel := context.WithTimeout(ctx, l.every)
	defer cancel()
	for range 3 {
		rev, err := l.put(ctx, l.revision())
		if err == nil {
			l.setRevision(rev)
			return nil, true
		}
		if !conflict(err) {
			l.log.Warn("cannot renew the lease", "machine", l.machine, "disk", l.disk, "err", err)
			return nil, false
		}
		// The key is not as we left it: our own renewal whose answer was lost, a
		// server that forgot its tail, expired while we were cut off, or taken.
		h, at, err := l.look(ctx)
		if err != nil {
			l.log.Warn("cannot read the lease", "machine", l.machine, "disk", l.disk, "err", err)
			return nil, false
		}
		if h != nil && h.Instance != l.holder.Instance {
			return h, false
		}
		l.setRevision(at)
	}
	return nil, false
}

func (l *Lease) revision() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rev
}

func (l *Lease) setRevision(rev uint64) {
	l.mu.Lock()
	l.rev = rev
	l.mu.Unlock()
}

// Lost is closed when somebody else holds the lease. Being cut off from the bus
// closes only a role's.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// LostTo says who holds the lease after Lost; before, it is zero.
func (l *Lease) LostTo() Holder {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to
}

// Release stops renewing, waits for that, and gives the lease up if it is still
// ours. A lost lease is left alone. If the server cannot be reached the error
// says so, and the lease expires by itself.
func (l *Lease) Release(ctx context.Context) error {
	l.stop()
	<-l.done
	select {
	case <-l.lost:
		return nil
	default:
	}
	rev := l.revision()
	if rev == 0 {
		return nil
	}
	err := l.kv.Delete(ctx, l.key, jetstream.LastRevision(rev))
	if err == nil || conflict(err) {
		// Changed meanwhile: it is no longer ours to delete, or it expires soon.
		return nil
	}
	return fmt.Errorf("release the lease of %s/%s: %w (it expires by itself)", l.machine, l.disk, err)
}
