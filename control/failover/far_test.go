package failover

import (
	"fmt"
	"testing"

	"github.com/leeward-dr/leeward/control/target"
)

// What is on either side is looked at once.
func TestPieces(t *testing.T) {
	const most = fetchPiece / target.BlockSize
	for _, c := range []struct {
		there, point [][2]int64
		want         string
	}{
		{nil, nil, "[]"},
		{[][2]int64{{2, 4}}, nil, "[{2 2 true}]"},
		{nil, [][2]int64{{2, 4}}, "[{2 2 false}]"},
		{[][2]int64{{2, 4}, {6, 8}}, [][2]int64{{0, 3}, {3, 10}}, "[{2 2 true} {6 2 true} {0 2 false} {4 2 false} {8 2 false}]"},
		{[][2]int64{{0, 10}}, [][2]int64{{2, 3}, {5, 12}}, "[{0 10 true} {10 2 false}]"},
		{[][2]int64{{0, most + 1}}, nil, fmt.Sprintf("[{0 %d true} {%d 1 true}]", most, most)},
	} {
		if got := fmt.Sprint(pieces(c.there, c.point)); got != c.want {
			t.Errorf("%v and %v: %s, want %s", c.there, c.point, got, c.want)
		}
	}
	runs := runsOf(func(yield func(off, length int64) bool) {
		_ = yield(100, 8192) && yield(12288, 512) && yield(40960, 4096)
	})
	if got := fmt.Sprint(runs); got != "[[0 4] [10 11]]" {
		t.Errorf("runs %s", got)
	}
}
