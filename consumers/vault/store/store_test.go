package store

import (
	"errors"
	"testing"
)

func TestRange(t *testing.T) {
	for _, c := range []struct {
		size, off, n, start, count int64
		bad                        bool
	}{
		{10, 0, -1, 0, 10, false}, {10, 4, 6, 4, 6, false}, {10, 4, 7, 0, 0, true}, {10, -4, 99, 6, 4, false},
		{10, -11, 0, 0, 10, false}, {0, 0, -1, 0, 0, false}, {0, -5, -1, 0, 0, false}, {10, 1 << 62, 1 << 62, 0, 0, true}, {10, 3, 1<<63 - 1, 0, 0, true},
	} {
		start, count, err := Range(c.size, c.off, c.n)
		if start != c.start || count != c.count || errors.Is(err, ErrRange) != c.bad {
			t.Errorf("range %d+%d of %d: %d+%d, %v", c.off, c.n, c.size, start, count, err)
		}
	}
}

func TestCheckPrefix(t *testing.T) {
	for prefix, ok := range map[string]bool{"": true, "a": true, "a/": true, "a/b": true, "/": false, "a//": false, "..": false} {
		if err := CheckPrefix(prefix); (err == nil) != ok {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}
