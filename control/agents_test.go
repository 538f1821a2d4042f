package control

import (
	"testing"
	"time"

	"github.com/leeward-dr/leeward/producers/markers"
)

// An agent's share follows what it does: one copies its disk, one sleeps, a third
// comes and goes.
func TestShares(t *testing.T) {
	const rate = 1 << 20
	a, now := newAgents(), time.Unix(1_800_000_000, 0)
	told := func(rate int64) (names []string) {
		names, _ = a.divide(rate, now)
		sum := int64(0)
		for n := range a.heard {
			sum += a.share(n)
		}
		if rate > 0 && sum > rate || rate == 0 && sum > 0 {
			t.Fatalf("shares of %d add up to %d", rate, sum)
		}
		return names
	}
	sent := map[string]uint64{}
	say := func(machine string, bytes uint64, waited time.Duration) bool {
		sent[machine] += bytes
		return a.say(&markers.Needs{Machine: machine, Since: 1, SentBytes: sent[machine], Waited: waited, Rate: a.share(machine)}, now)
	}
	a.ask("copies", now)
	a.ask("sleeps", now)
	if len(told(0)) != 0 || a.share("copies") != 0 {
		t.Error("without a bound somebody has a share")
	}
	if n := told(rate); len(n) != 2 || a.share("copies") != rate/2 {
		t.Errorf("told were %v, the share of two who only asked is %d", n, a.share("copies"))
	}
	for i := range 2 { // what was waited is known from the second time on
		now = now.Add(5 * time.Second)
		say("copies", 5*rate/2, time.Duration(i)*4*time.Second)
		say("sleeps", 0, 0)
	}
	if n := told(rate); len(n) != 2 || n[0] != "sleeps" {
		t.Errorf("told were %v: who gets less must be first", n)
	}
	if c, s := a.share("copies"), a.share("sleeps"); s != rate/2/4 || c != rate-s {
		t.Errorf("shares are %d and %d", c, s)
	}
	if n := told(rate); len(n) != 0 {
		t.Errorf("nothing has changed, told were %v", n)
	}
	if s := a.share("unheard"); s <= 0 || s > rate/3 {
		t.Errorf("one who was never heard may send %d", s)
	}
	a.ask("comes", now)
	if s := a.share("comes"); s <= 0 || s > rate/3 {
		t.Errorf("one who just came may send %d", s)
	}
	told(rate)
	if again := a.say(&markers.Needs{Machine: "comes", Since: 1, Rate: 0}, now); !again {
		t.Error("one who says that it has no bound is not told again")
	}
	if again := a.say(&markers.Needs{Machine: "comes", Since: 1, Rate: 10}, now); again {
		t.Error("one whose own bound is lower is told again and again")
	}
	now = now.Add(agentSilent + time.Second)
	say("copies", rate, 9*time.Second)
	told(rate)
	if len(a.heard) != 1 || a.share("copies") != rate {
		t.Errorf("%d are left, with a share of %d", len(a.heard), a.share("copies"))
	}
	if n := told(0); len(n) != 1 || a.share("copies") != 0 {
		t.Errorf("without a bound again told were %v", n)
	}
}
