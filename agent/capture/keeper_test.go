package capture_test

import (
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/agent/capture"
)

func TestFits(t *testing.T) {
	at := func(e, n uint64) capture.Mark { return capture.Mark{Epoch: e, Number: n} }
	for _, c := range []struct {
		mark        capture.Mark
		since, last uint64
		base        capture.Mark
		word        string // "" if it fits
	}{
		{at(5, 10), 3, 5, at(5, 10), ""},
		{at(5, 10), 3, 5, at(5, 11), ""},
		{at(5, 10), 3, 5, at(5, 9), "before"},
		{at(5, 10), 3, 5, at(4, 99), "before"},
		{at(5, 10), 3, 7, at(6, 1), ""},
		{at(5, 10), 6, 7, at(7, 1), ""},
		{at(5, 10), 3, 7, at(8, 1), "another agent"},
		{at(5, 10), 7, 7, at(7, 1), "another agent"}, // epoch 6 was somebody else's
		{at(5, 10), 7, 7, at(5, 12), ""},
	} {
		err := capture.Fits(c.mark, c.since, c.last, c.base)
		if (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
