package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

func TestMemConforms(t *testing.T) {
	Run(t, func(*testing.T) store.Store { return NewMem() })
}

func TestMemConformsInBadWeather(t *testing.T) {
	RunFaulty(t, func(*testing.T) store.Store { return NewMem() })
}

func TestFaults(t *testing.T) {
	broken := errors.New("broken")
	m := NewMem()
	m.Faults(func(op Op) Fault {
		switch op.Key {
		case "lost":
			return Fault{Err: broken}
		case "done":
			return Fault{Err: broken, Done: true}
		case "torn":
			return Fault{Err: broken, Torn: 2}
		}
		return Fault{Delay: time.Nanosecond}
	})
	want := map[string]string{"lost": "", "done": "data", "torn": "da"}
	for key, data := range want {
		if err := m.Put(t.Context(), key, []byte("data")); !errors.Is(err, broken) {
			t.Errorf("%s: %v", key, err)
		}
		if got := string(m.Bytes(key)); got != data {
			t.Errorf("%s holds %q, want %q", key, got, data)
		}
	}
	put(t, m, "fine", "data")
	c := m.Clone()
	c.Remove("fine")
	c.Set("torn", []byte("changed"))
	if n := len(m.Keys()); n != 3 || string(m.Bytes("torn")) != "da" || m.Ops() != 4 {
		t.Errorf("%d keys, %d ops: a clone is not independent", n, m.Ops())
	}
}
