package api

import (
	"testing"

	"github.com/leeward-dr/leeward/control/failover"
)

// Requests come from anybody with a connection: no bytes may do more than fail.
func FuzzRequests(f *testing.F) {
	f.Add([]byte(`{"machine":"web","target":"qemu","options":{"serial":"x"}}`))
	f.Add([]byte(`{"machine":"web","since":"2026-11-22T12:00:00Z","limit":-5,"cursor":"7"}`))
	f.Add([]byte(`{}{}`))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		if q, err := in[Query](body); err == nil {
			if p, err := paginate("x", Newest([]int{1, 2, 3}, q.Limit), q.Cursor); err == nil && len(p.Items) > 3 {
				t.Errorf("%d items of 3", len(p.Items))
			}
		} else if AsError(err).Code != CodeUsage {
			t.Errorf("a bad request is %v", err)
		}
		if r, err := in[failover.Request](body); err == nil {
			_ = r.Validate() // must not panic
		}
		_, _ = in[Ref](body) // must not panic
	})
}
