package blocks

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// In a second of the test's own time exactly what the rate says leaves, and what was
// saved before; a changed rate counts at once, for those who wait, too.
func TestLimiterRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Limiter
		l.SetRate(1 << 20)
		began, sent := time.Now(), 0
		for sent < 10<<20 {
			if err := l.Wait(t.Context(), 64<<10); err != nil {
				t.Fatal(err)
			}
			sent += 64 << 10
		}
		if took := time.Since(began).Seconds(); took < 9.6 || took > 10.1 {
			t.Errorf("10 MiB at 1 MiB/s took %.2f s", took)
		}
		if w := l.Waited().Seconds(); w < 9.5 || w > 10.1 {
			t.Errorf("%.2f s of that were waited", w)
		}
		l.SetRate(1) // whoever comes now would wait for most of a day
		if err := l.Wait(t.Context(), 64<<10); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		time.AfterFunc(time.Second, func() { l.SetRate(1 << 20) })
		for range 2 {
			if err := l.Wait(t.Context(), 64<<10); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < time.Second || took > 1500*time.Millisecond {
			t.Errorf("the new rate counted after %v", took)
		}
		l.SetRate(0)
		began = time.Now()
		for range 1000 {
			if err := l.Wait(t.Context(), 1<<30); err != nil {
				t.Fatal(err)
			}
		}
		if time.Since(began) > 0 {
			t.Error("no limit limits")
		}
	})
}

// One who sends much and many who send little: nobody waits for longer than the
// others' messages take.
func TestLimiterIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Limiter
		l.SetRate(1 << 20)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var all sync.WaitGroup
		var sent [8]atomic.Int64
		for i := range sent {
			all.Go(func() {
				for l.Wait(ctx, 256<<10) == nil {
					sent[i].Add(1)
				}
			})
		}
		all.Wait()
		total := int64(0)
		for i := range sent {
			n := sent[i].Load()
			total += n
			if n < 5 || n > 16 { // 10 each
				t.Errorf("publisher %d sent %d of about 10", i, n)
			}
		}
		if total < 79 || total > 83 {
			t.Errorf("%d messages in 20 s, 80 are allowed", total)
		}
	})
}

func TestLimiterEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var none *Limiter
		if err := none.Wait(t.Context(), 1<<30); err != nil || none.Rate() != 0 {
			t.Fatal(err)
		}
		l := &Limiter{}
		l.SetRate(10)
		if err := l.Wait(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Wait(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
	})
}
