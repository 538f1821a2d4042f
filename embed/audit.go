package embed

import (
	"regexp"
	"strconv"
	"sync"
	"time"
)

// Refusal is something that the server refused a user.
type Refusal struct {
	PublicKey string // of the user; empty if it has none
	What      string // "publish leeward.changes.01.db1.sda" or "subscribe …"
	Times     int    // since the last one told of the same
}

const (
	auditEvery = time.Minute // at most one Refusal of the same in this time
	auditKeys  = 1024        // different ones that are remembered; more are counted together
)

// A server has no event for what it refuses, only lines of its log.
var (
	violation = regexp.MustCompile(`(Publish|Subscription) Violation.*? - (Subject|Reply) ("(?:[^"\\]|\\.)*")`)
	userKey   = regexp.MustCompile(`\b(?:jwt|nkey):(U[A-Z2-7]{55})\b`)
)

// audit counts refusals and tells of them: at once of the first, then every minute
// of what came since.
type audit struct {
	tell  func(Refusal)
	every time.Duration

	mu   sync.Mutex
	seen map[Refusal]*count // Times is 0 in the keys
	wake chan struct{}
	stop chan struct{}
	done chan struct{}
}

type count struct {
	times int
	told  time.Time
}

func newAudit(tell func(Refusal), every time.Duration) *audit {
	a := &audit{tell: tell, every: every, seen: map[Refusal]*count{}, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go a.run()
	return a
}

// line looks at a line of the server's log. It is called by the server while it
// serves a client, so it does no more than count.
func (a *audit) line(text string) {
	v := violation.FindStringSubmatch(text)
	if v == nil {
		return
	}
	subject, err := strconv.Unquote(v[3])
	if err != nil {
		subject = v[3]
	}
	r := Refusal{What: "publish " + subject}
	switch {
	case v[1] == "Subscription":
		r.What = "subscribe to " + subject
	case v[2] == "Reply":
		r.What = "publish with an answer to " + subject
	}
	if k := userKey.FindStringSubmatch(text); k != nil {
		r.PublicKey = k[1]
	}
	a.mu.Lock()
	c := a.seen[r]
	if c == nil && len(a.seen) >= auditKeys {
		r.What = "many different things"
		c = a.seen[r]
	}
	if c == nil {
		c = &count{}
		a.seen[r] = c
	}
	c.times++
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *audit) run() {
	defer close(a.done)
	t := time.NewTicker(a.every)
	defer t.Stop()
	for {
		select {
		case <-a.wake:
		case <-t.C:
		case <-a.stop:
			a.flush(time.Time{})
			return
		}
		a.flush(time.Now())
	}
}

// flush tells what is due at now; all of it for no time. Whoever was quiet for long
// is forgotten.
func (a *audit) flush(now time.Time) {
	var due []Refusal
	a.mu.Lock()
	for r, c := range a.seen {
		switch {
		case !now.IsZero() && now.Sub(c.told) < a.every:
		case c.times > 0:
			r.Times = c.times
			due = append(due, r)
			c.times, c.told = 0, now
		default:
			delete(a.seen, r)
		}
	}
	a.mu.Unlock()
	for _, r := range due {
		a.tell(r)
	}
}

func (a *audit) close() {
	close(a.stop)
	<-a.done
}
