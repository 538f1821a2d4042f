package target_test

import (
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target"
)

// A machine's check is tested by the conformance kit, with every target.

func TestProbeCheck(t *testing.T) {
	for _, c := range []struct {
		p    target.Probe
		want string // part of the error; "" for none
	}{
		{target.Probe{Serial: "login:"}, ""},
		{target.Probe{Port: 22}, ""},
		{target.Probe{Port: 80, HTTP: "/health", Timeout: time.Minute}, ""},
		{target.Probe{}, "asks for nothing"},
		{target.Probe{Serial: "x", HTTP: "/"}, "on no port"},
		{target.Probe{Port: 80, HTTP: "health"}, "does not start with /"},
		{target.Probe{Port: 70000}, "is none"},
		{target.Probe{Port: 1, Timeout: -time.Second}, "timeout"},
	} {
		err := c.p.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, not %q", c.p, err, c.want)
		}
	}
}
