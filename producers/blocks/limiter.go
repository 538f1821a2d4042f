package blocks

import (
	"context"
	"sync"
	"time"
)

// Limiter bounds how many bytes a second leave a machine, over all publishers that
// share it. The rate may change at any moment; it counts for those who wait, too.
// The zero value and nil let everything pass.
//
// It is a token bucket that may go into debt: whoever finds it not empty takes all it
// needs and leaves, the next waits until the debt is paid. So a message larger than
// what a second allows still passes, and publishers are served in the order of their
// coming, a small disk beside a large one.
type Limiter struct {
	mu      sync.Mutex
	rate    float64   // bytes a second, 0: no limit
	tokens  float64   // at the time below; negative: debt
	at      time.Time //
	changed chan struct{}
	turn    chan struct{} // holds one while somebody waits first
	waited  time.Duration // for all that waited
	since   time.Time     // somebody waits; zero: nobody
}

// burst is how much of what was not used is saved, in seconds of the rate.
const burst = 0.25

// SetRate sets the bytes a second; 0 and less take the limit away.
func (l *Limiter) SetRate(bytesPerSecond int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fill(time.Now())
	l.rate = max(0, float64(bytesPerSecond))
	l.tokens = min(l.tokens, l.rate*burst)
	if l.changed != nil {
		close(l.changed)
	}
	l.changed = make(chan struct{})
}

// Rate is what SetRate has set last.
func (l *Limiter) Rate() int64 {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.rate)
}

// fill adds what the time since the last look has brought.
func (l *Limiter) fill(now time.Time) {
	if !l.at.IsZero() {
		l.tokens = min(l.tokens+now.Sub(l.at).Seconds()*l.rate, l.rate*burst)
	}
	l.at = now
}

// Wait returns when n bytes may leave, or when ctx ends.
func (l *Limiter) Wait(ctx context.Context, n int) error {
	if l == nil {
		return nil
	}
	turn := l.line()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer l.blocked(false)
	for {
		wait, changed := l.take(n)
		if wait == 0 {
			return nil
		}
		l.blocked(true)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-changed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

// blocked notes that the first in line begins to wait, or ends.
func (l *Limiter) blocked(waits bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case waits && l.since.IsZero():
		l.since = time.Now()
	case !waits && !l.since.IsZero():
		l.waited += time.Since(l.since)
		l.since = time.Time{}
	}
}

// Waited is for how long somebody could not send because of the limit, so far.
func (l *Limiter) Waited() time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return l.waited
	}
	return l.waited + time.Since(l.since)
}

func (l *Limiter) line() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.turn == nil {
		l.turn = make(chan struct{}, 1)
	}
	return l.turn
}

// take takes n bytes, or says how long there will be none.
func (l *Limiter) take(n int) (wait time.Duration, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 {
		l.tokens, l.at = 0, time.Time{}
		return 0, nil
	}
	l.fill(time.Now())
	if l.tokens < 0 {
		return max(time.Millisecond, time.Duration(-l.tokens/l.rate*float64(time.Second))), l.changed
	}
	l.tokens -= float64(n)
	return 0, nil
}
