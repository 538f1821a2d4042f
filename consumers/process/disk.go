package process

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/leeward-dr/leeward/consumers/optimize"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

// disk follows the chain of one disk. Everything below "owned" is touched only by
// its goroutine, loop; what takes time or I/O runs as a task, so that deliveries are
// kept alive and links gathered while the vault works. A task runs alone, except that
// up to commitsAhead runs are committed at a time.
type disk struct {
	s    *Server
	id   vault.DiskID
	part *part
	log  *slog.Logger

	in       chan *link
	asks     chan *ask
	announce chan struct{} // says: see that RECEIPTS has the head
	drain    chan struct{} // closed: commit what is there and stop
	quota    *semaphore.Weighted
	pins     int // guarded by Server.mu: who may still send to in or asks

	// owned
	w              *vault.DiskWriter // nil until opened
	head           vault.Head        // what the vault holds
	tail           vault.Head        // behind the last link of runs
	runs           []*run            // in order; the first may be begun
	waiting        []*link           // came while the head was not known
	held           []*link           // behind a gap, in order
	heldBytes      int64
	gap            gap
	lost           uint64        // the epoch whose links are dropped: the agent was asked to send again
	outbox         []notice      // receipts that say why links were refused
	questions      []*ask        // for sums
	told           told          // what was said once already
	reload         bool          // the head must be read again before anything else
	check          bool          // RECEIPTS must be compared with the head
	draining       bool          //
	tasks          int           // that run
	done           chan func()   // the end of a task, to be called by loop
	busy           bool          // one that runs alone is among them, or one that begins a commit
	pending        int           // runs that are begun; the first ones
	said           chan struct{} // closed: the run begun last is settled
	broken         *failure      // of the first run: those behind it fail too
	stale          bool          // the writer's sums are ahead of the vault, until it has looked again
	failing        error         // the store's last answer, nil if it works
	retry          time.Time     // no task before
	wait           time.Duration
	touched        time.Time // when deliveries were last kept alive
	committedLinks uint64
	used           time.Time // when the last link or question came; zero: only its receipt is looked after
}

// gap is how far the search for a missing link has come.
type gap struct {
	deadline time.Time // zero: no gap
	since    time.Time // when it was found
	hurried  bool      // more came behind it than can be held: it was not waited for
	again    bool      // the partition's messages were asked for again
	read     bool      // the vault was asked whether somebody else wrote the link
}

// notice is a receipt to be published because links were refused; they are
// acknowledged after it.
type notice struct {
	resend bool
	reason string
	links  []*link
}

// told remembers what was announced, so that a thousand links of one stale agent
// make one event.
type told struct {
	fenced   uint64         // epoch
	forked   vault.Position // link
	conflict vault.Position // head at the last conflict
	damage   bool
	barred   barred // by a fence
}

func newDisk(s *Server, id vault.DiskID, p *part) *disk {
	return &disk{
		s: s, id: id, part: p, log: s.log.With("machine", id.Machine, "disk", id.Disk),
		in: make(chan *link, 8), asks: make(chan *ask, maxAsks), announce: make(chan struct{}, 1), drain: make(chan struct{}),
		quota: semaphore.NewWeighted(s.cfg.perDisk()), done: make(chan func(), 1+commitsAhead), touched: time.Now(),
	}
}

// loop runs until the disk is idle, drained or ctx ends. When ctx ends it drops
// what it has: nothing of it was acknowledged.
func (d *disk) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer func() { d.weigh(-d.heldBytes) }()
	drain := d.drain
	for {
		now := time.Now()
		d.step(ctx, now)
		d.publish()
		if d.draining && d.drained() || d.retire(now) {
			return
		}
		timer.Reset(time.Until(d.wake()))
		select {
		case <-ctx.Done():
			for ; d.tasks > 0; d.tasks-- {
				<-d.done
			}
			return
		case l := <-d.in:
			d.take(l)
		case a := <-d.asks:
			d.used, a.want = time.Now(), d.tail.Position
			d.questions = append(d.questions, a)
		case end := <-d.done:
			d.tasks--
			end()
		case <-d.announce:
			d.check = true
		case <-drain:
			d.draining, drain = true, nil
		case <-timer.C:
		}
	}
}

// step starts the next task, if there is one and none is running.
func (d *disk) step(ctx context.Context, now time.Time) {
	d.keepAlive(now)
	d.expire(now)
	if ctx.Err() != nil {
		return
	}
	if d.broken != nil && d.pending == 0 && !d.busy {
		d.commitFailed()
	}
	if d.busy || d.broken != nil || now.Before(d.retry) {
		return
	}
	if d.w == nil {
		if len(d.waiting) > 0 || len(d.questions) > 0 || d.check {
			d.open(ctx)
		}
		return
	}
	if d.pending == 0 {
		d.answer()
	}
	if d.alone() {
		if d.pending == 0 {
			d.serve(ctx)
		}
		return
	}
	switch {
	case len(d.runs) > d.pending && d.pending < commitsAhead && d.due(now):
		d.commit(ctx)
	case len(d.runs) == 0 && !d.gap.deadline.IsZero() && !now.Before(d.gap.deadline):
		d.search(ctx, now)
	}
}

// alone reports whether something is to be done that nothing may be pending beside.
func (d *disk) alone() bool {
	if d.reload || d.check || len(d.outbox) > 0 {
		return true
	}
	if d.stale {
		return false
	}
	for _, a := range d.questions {
		if !less(d.head.Position, a.want) {
			return true
		}
	}
	return false
}

// serve does one of the things that alone tells of, beside answers.
func (d *disk) serve(ctx context.Context) {
	switch {
	case d.reload:
		d.read(ctx)
	case d.check:
		d.compare(ctx)
	case len(d.outbox) > 0:
		d.say(ctx)
	}
}

// due reports whether the first run that is not begun is to be committed now.
func (d *disk) due(now time.Time) bool {
	r := d.runs[d.pending]
	return r.closed || len(d.runs) > d.pending+1 || d.draining || len(d.questions) > 0 ||
		!now.Before(r.count.Due(d.s.limits)) || !d.gap.deadline.IsZero() && !now.Before(d.gap.deadline)
}

// wake returns when step has something to do if nothing happens before.
func (d *disk) wake() time.Time {
	at := d.touched.Add(d.s.tempo.touch)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	if !d.busy {
		if d.failing != nil {
			sooner(d.retry)
		} else {
			if len(d.runs) > d.pending && d.pending < commitsAhead {
				sooner(d.runs[d.pending].count.Due(d.s.limits))
			}
			sooner(d.gap.deadline)
		}
	}
	for _, a := range d.questions {
		sooner(a.until)
	}
	if idle := d.used.Add(d.s.tempo.idle); idle.After(time.Now()) {
		sooner(idle)
	}
	return at
}

// take judges a link that came in, or lets it wait until the head is known.
func (d *disk) take(l *link) {
	d.used = time.Now()
	if d.w == nil || d.reload {
		d.waiting = append(d.waiting, l)
		return
	}
	d.place(l)
	d.settle()
}

// settle judges the links behind a gap again, as far as the gap is closed.
func (d *disk) settle() {
	for len(d.held) > 0 {
		l := d.held[0]
		if v, _ := follow(d.tail, l.Change, l.Hash); v == early {
			break
		}
		d.held = d.held[1:]
		d.weigh(-l.size)
		d.gap = gap{}
		d.place(l)
	}
	switch {
	case len(d.held) == 0:
		d.gap = gap{}
	case d.gap.deadline.IsZero():
		now := time.Now()
		d.gap = gap{deadline: now.Add(d.s.tempo.hold), since: now}
	}
}

// place puts a link where it belongs.
func (d *disk) place(l *link) {
	if p := d.find(l.at()); p != nil {
		if p.Hash != l.Hash {
			d.fork(l, "another link with this number is waiting already")
			return
		}
		p.merge(l)
		d.s.redelivered.Add(1)
		d.release(l)
		return
	}
	if d.barred(l) {
		return
	}
	v, why := follow(d.tail, l.Change, l.Hash)
	c := l.Change
	if c.Epoch == d.lost && (v == fits || v == early) || v == fenced && c.Epoch == d.told.fenced {
		d.drop(l)
		return
	}
	switch v {
	case repeat:
		d.s.redelivered.Add(1)
		d.finish(l)
	case fits:
		if c.Block != nil {
			if err := optimize.Check(c.Block); err != nil {
				d.malformed(l, err)
				return
			}
		}
		d.add(l)
	case opens:
		d.begin(l)
	case early:
		d.hold(l)
	case forked:
		d.fork(l, why)
	case fenced:
		d.told.fenced = c.Epoch
		d.event("fenced", wire.Warning, "changes of an older epoch were refused: "+why,
			"see which machine runs another agent for this disk, or was brought up after a failover")
		d.refuse(notice{reason: why, links: []*link{l}})
	case behind:
		if !l.again { // our head may be old, if somebody else wrote
			l.again, d.reload = true, true
			d.waiting = append(d.waiting, l)
			return
		}
		d.lost = c.Epoch
		d.event("vault-behind", wire.Critical, why, "check the vault: leeward vault check; the agent sends the disk again")
		d.refuse(notice{resend: true, reason: why, links: []*link{l}})
	}
}

// begin starts a new epoch. What is left of the epochs before is of no use: the
// agent sends everything behind the new epoch's base again.
func (d *disk) begin(l *link) {
	if d.lost != 0 {
		d.told.fenced, d.lost = d.lost, 0 // what else comes of it is no stale agent
	}
	d.add(l)
	for len(d.held) > 0 && d.held[0].Change.Epoch < d.tail.Epoch {
		d.weigh(-d.held[0].size)
		d.drop(d.held[0])
		d.held = d.held[1:]
	}
}

// add appends the next link to the last run or begins a new one.
func (d *disk) add(l *link) {
	c := l.Change
	var last *run
	if n := len(d.runs); n > 0 {
		last = d.runs[n-1]
		last.closed = last.closed || optimize.Starts(c)
	}
	if last == nil || last.closed {
		last = &run{}
		d.runs = append(d.runs, last)
	}
	last.links = append(last.links, l)
	last.count.Add(c, time.Now())
	last.closed = optimize.Ends(c) || last.count.Full(d.s.limits)
	d.tail = advance(d.tail, c, l.Hash)
}

// find returns the link that waits at p.
func (d *disk) find(p vault.Position) *link {
	for _, r := range d.runs {
		if l := r.find(p); l != nil {
			return l
		}
	}
	for _, l := range d.held {
		if l.at() == p {
			return l
		}
	}
	return nil
}

// drained reports whether nothing is left to do before a stop. Links behind a gap
// are left unacknowledged for the next server.
func (d *disk) drained() bool {
	return d.tasks == 0 && len(d.runs) == 0 && len(d.waiting) == 0 && len(d.outbox) == 0 && len(d.in) == 0
}

// retire ends a disk that has had nothing to do for a while, so that its table of
// sums is freed. It reports whether the disk is gone.
func (d *disk) retire(now time.Time) bool {
	empty := d.drained() && len(d.held) == 0 && len(d.questions) == 0 && !d.check && !d.reload && d.lost == 0
	if !empty || now.Before(d.used.Add(d.s.tempo.idle)) {
		return false
	}
	return d.s.forget(d)
}
