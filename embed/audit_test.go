package embed

import (
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/streams/trust"
)

type refusals struct {
	mu  sync.Mutex
	all []Refusal
}

func (r *refusals) note(x Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, x)
}

// times counts what was told of the same.
func (r *refusals) times(key, what string) (n, events int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.all {
		if x.PublicKey == key && x.What == what {
			n += x.Times
			events++
		}
	}
	return n, events
}

// Whatever the table refuses to a machine is told, with who and what.
func TestRefusalsAreTold(t *testing.T) {
	t.Parallel()
	var got refusals
	c := config(t.TempDir())
	c.Refused = got.note
	s := start(t, c)
	nc, key := enrolled(t, s, "web1", "web1")
	want := map[string]bool{}
	for _, l := range rights(t) {
		if l.may[trust.Machine] {
			continue
		}
		switch l.action {
		case "publish":
			want["publish "+l.subject] = true
			for range 3 {
				if err := nc.Publish(l.subject, nil); err != nil {
					t.Fatal(err)
				}
			}
		case "hear":
			want["subscribe to "+l.subject] = true
			if _, err := nc.SubscribeSync(l.subject); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	stop(t, s) // tells the rest
	for what := range want {
		n, events := got.times(key, what)
		wanted := 3
		if what[0] == 's' {
			wanted = 1
		}
		if n != wanted || events == 0 || events > 2 {
			t.Errorf("%s: %d times in %d events, want %d in at most 2", what, n, events, wanted)
		}
	}
}

// A flood of refusals costs bounded memory and few events.
func TestRefusalFlood(t *testing.T) {
	t.Parallel()
	var got refusals
	a := newAudit(got.note, time.Hour)
	for i := range 10 * auditKeys {
		a.line(`1.2.3.4:5 - cid:7 - "v1:go:x" - "A/jwt:UABC" - Publish Violation - Subject "a.` + time.Duration(i).String() + `" - x`)
	}
	for range 1000 {
		a.line(`Publish Violation - Subject "same"`)
		a.line("Slow consumer, nothing to see")
	}
	a.close()
	sum := 0
	for _, r := range got.all {
		sum += r.Times
	}
	if len(a.seen) > auditKeys+1 || sum != 10*auditKeys+1000 {
		t.Errorf("%d remembered, %d told of", len(a.seen), sum)
	}
	if n, events := got.times("", "publish same"); n+events != 0 {
		t.Errorf("%d more keys after the bound", events)
	}
}
