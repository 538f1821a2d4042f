package standby

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/target/azure"
)

// Config says what to keep, and where.
type Config struct {
	Vault *vault.Vault
	// Azure says where copies are kept now; it is asked each time.
	Azure func() (azure.Config, error)
	// Want says of every machine that is to have copies how far behind they may be, nil if
	// that is not known now.
	Want func() map[string]time.Duration
	// Points lists the recovery points.
	Points func(ctx context.Context) ([]*vault.Point, error)
	// Trouble is called when a machine's copies are in another trouble than before, with nil
	// when they are in none any more; may be nil.
	Trouble func(machine string, err error)
	// VerifyEvery is how often a copy is read as a whole and compared; 0: a day.
	VerifyEvery time.Duration
	// Every is how often Step is called, to say when a copy is brought on next.
	Every time.Duration
	Log   *slog.Logger
}

// State is how the copy of a disk stands.
type State struct {
	Machine string
	Disk    string
	Point   string        // that it is like, "" if none yet
	Time    time.Time     // when that was cut
	Limit   time.Duration // how far behind it may be
	Sent    int64         // bytes, by this process
	Looked  int64         // bytes of the copy that were read, by this process
	Error   string        // why it was not brought on last; "" if it was
	Where   string        // URL of the copy
	Size    int64         // of the disk, in bytes; 0 while there is no copy
	Held    string        // run that a machine is being made of the copy in; it is left alone
	Going   string        // point that it is being brought to
	Last    int64         // bytes that were sent last, by this process
	Brought time.Time     // when that was done; zero if this process has not brought it on
	Next    time.Time     // when it is brought on next if there is a newer point, at the earliest
}

// Keeper keeps copies. Its methods may be called from many goroutines, Step from one.
type Keeper struct {
	cfg Config

	mu     sync.Mutex
	states map[azure.Key]*State
	going  azure.Key         // copy that is on its way
	to     string            // point that it is on its way to, "" if none is
	far    string            // why it is not known what is kept, "" if it is
	looked time.Time         // when it was last known what is kept, and what was due was done
	told   map[string]string // machine → its trouble
	idle   bool              // nothing is wanted, and nothing was kept when that was asked last
}

// New returns a Keeper that keeps nothing yet.
func New(cfg Config) *Keeper {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.VerifyEvery = cmp.Or(cfg.VerifyEvery, 24*time.Hour)
	return &Keeper{cfg: cfg, states: map[azure.Key]*State{}, told: map[string]string{}}
}

// States lists how the copies stand, by machine and disk.
func (k *Keeper) States() (all []State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, s := range k.states {
		now := *s
		now.Error = cmp.Or(now.Error, k.far)
		if k.to != "" && k.going == key {
			now.Going = k.to
		}
		now.Next = k.next(s)
		all = append(all, now)
	}
	slices.SortFunc(all, func(a, b State) int { return cmp.Or(cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Disk, b.Disk)) })
	return all
}

// next says when a copy is brought on at the earliest.
func (k *Keeper) next(s *State) time.Time {
	look := k.looked.Add(k.cfg.Every)
	if k.looked.IsZero() {
		look = time.Now()
	}
	if s.Error != "" || s.Time.IsZero() {
		return look // it is due
	}
	if due := s.Time.Add(s.Limit); due.After(look) {
		return due
	}
	return look
}

// InUse names the points that copies are at or on their way to.
func (k *Keeper) InUse() (points []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.states {
		if s.Point != "" && !slices.Contains(points, s.Point) {
			points = append(points, s.Point)
		}
	}
	if k.to != "" {
		points = append(points, k.to)
	}
	return points
}

// Step does all that is due. It goes on with the other disks when one fails, and returns
// what failed.
func (k *Keeper) Step(ctx context.Context) error {
	want := k.cfg.Want()
	k.mu.Lock()
	idle := k.idle
	k.mu.Unlock()
	if want == nil || len(want) == 0 && idle {
		return nil
	}
	where, err := k.cfg.Azure()
	if err == nil && len(want) == 0 && !where.Place.Keeps() {
		k.forget(nil, nil)
		return nil // nothing can have been kept
	}
	var have []azure.KeptDisk
	if err == nil {
		have, err = azure.ListKept(ctx, where, k.cfg.Vault.ID())
	}
	if err != nil {
		k.unknown(ctx, where, want, err)
		for m := range want {
			k.trouble(m, err)
		}
		return err
	}
	all, err := k.cfg.Points(ctx)
	if err != nil {
		return err
	}
	k.forget(have, want)
	k.place(where)
	failed := map[string]error{}
	for _, t := range Due(k.cfg.Vault.ID(), want, all, have) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := k.do(ctx, where, t); err != nil {
			failed[t.Key.Machine] = errors.Join(failed[t.Key.Machine], fmt.Errorf("disk %s: %w", t.Key.Disk, err))
		}
	}
	k.mu.Lock()
	k.looked = time.Now()
	k.mu.Unlock()
	var joined error
	for m := range want {
		k.trouble(m, failed[m])
	}
	for _, err := range failed {
		joined = errors.Join(joined, err)
	}
	return joined
}

// forget takes in what is kept, and forgets the rest.
func (k *Keeper) forget(have []azure.KeptDisk, want map[string]time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.idle, k.far = len(have) == 0 && len(want) == 0, ""
	there := map[azure.Key]bool{}
	for _, h := range have {
		there[h.Key] = true
		s := k.state(h.Key)
		s.Point, s.Time, s.Limit, s.Size, s.Held = h.Point, h.Time, want[h.Machine], h.Size, h.Held
	}
	for key, s := range k.states {
		_, wanted := want[key.Machine]
		switch {
		case there[key]:
		case wanted && s.Error != "":
			// It could not be made: who looks while that is tried again shall see why.
			s.Point, s.Time, s.Limit, s.Size, s.Held = "", time.Time{}, want[key.Machine], 0, ""
		default:
			delete(k.states, key)
		}
	}
}

// unknown takes in that nobody can say what is kept: what is wanted is shown, with the reason.
func (k *Keeper) unknown(ctx context.Context, where azure.Config, want map[string]time.Duration, why error) {
	all, err := k.cfg.Points(ctx)
	if err != nil {
		all = nil // what was known is still shown
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.far, k.looked = why.Error(), time.Now()
	for _, t := range Due(k.cfg.Vault.ID(), want, all, nil) {
		s := k.state(t.Key)
		s.Limit, s.Where = t.Limit, where.Place.KeptURL(t.Key)
	}
}

// place takes in where the copies are.
func (k *Keeper) place(where azure.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, s := range k.states {
		s.Where = where.Place.KeptURL(key)
	}
}

func (k *Keeper) state(key azure.Key) *State {
	s := k.states[key]
	if s == nil {
		s = &State{Machine: key.Machine, Disk: key.Disk}
		k.states[key] = s
	}
	return s
}

func (k *Keeper) do(ctx context.Context, where azure.Config, t Task) error {
	if t.Drop {
		err := azure.DropKept(ctx, where, t.Key)
		k.mu.Lock()
		defer k.mu.Unlock()
		if err == nil {
			delete(k.states, t.Key)
			k.cfg.Log.Info("a standby disk in Azure is removed: no policy wants it", "machine", t.Key.Machine, "disk", t.Key.Disk)
		}
		return err
	}
	k.mu.Lock()
	k.going, k.to = t.Key, t.Point.ID
	s := k.state(t.Key)
	s.Where, s.Limit = where.Place.KeptURL(t.Key), t.Limit
	k.mu.Unlock()
	b, err := k.bring(ctx, where, t)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.to = ""
	s = k.state(t.Key)
	s.Sent, s.Looked = s.Sent+b.Sent, s.Looked+b.Read
	if errors.Is(err, azure.ErrHeld) || ctx.Err() != nil {
		return nil // a machine is made of it: no trouble, and it is brought on when that is done
	}
	if s.Error = ""; err != nil {
		s.Error = err.Error()
		return err
	}
	s.Point, s.Time, s.Size = t.Point.ID, t.Point.Time, int64(t.Disk.Size)
	s.Last, s.Brought = b.Sent, time.Now()
	k.cfg.Log.Info("a standby disk in Azure is at a point", "machine", t.Key.Machine, "disk", t.Key.Disk, "point", t.Point.ID, "did", b.String())
	return nil
}

func (k *Keeper) bring(ctx context.Context, where azure.Config, t Task) (b azure.Brought, err error) {
	d, err := failover.OpenDisk(ctx, k.cfg.Vault, vault.DiskID{Machine: t.Key.Machine, Disk: t.Key.Disk}, t.Disk)
	if err != nil {
		return b, err
	}
	defer d.Close() // read-only: there is nothing to lose
	kept, err := azure.OpenKept(ctx, where, t.Key, d.Size())
	if err != nil {
		return b, err
	}
	if b, err = kept.Bring(ctx, d, t.Point.ID, t.Point.Time); err != nil || b.Whole {
		return b, err // what was just looked at as a whole needs no other look
	}
	if time.Since(kept.Verified()) < k.cfg.VerifyEvery {
		return b, nil
	}
	return b, kept.Verify(ctx, d)
}

// trouble tells of a machine's trouble, if it is another than before.
func (k *Keeper) trouble(machine string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	k.mu.Lock()
	was := k.told[machine]
	if text == "" {
		delete(k.told, machine)
	} else {
		k.told[machine] = text
	}
	k.mu.Unlock()
	if was == text {
		return
	}
	if err != nil {
		k.cfg.Log.Error("standby disks in Azure are not brought on", "machine", machine, "err", err)
	}
	if k.cfg.Trouble != nil {
		k.cfg.Trouble(machine, err)
	}
}
