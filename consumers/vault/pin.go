package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Pin keeps a recovery point whatever the retention says.
type Pin struct {
	Point string    `json:"point"`
	Group string    `json:"group"`
	Name  string    `json:"name,omitempty"`
	Time  time.Time `json:"time"` // when it was pinned
}

// maxPinName is the longest name of a pin in bytes.
const maxPinName = 200

// Pin keeps the point with an id until Unpin, under a name for people, which may be
// empty. Pinning it again changes nothing and returns ErrExists. It returns
// ErrNotFound if there is no such point, also if it was removed at the same time.
func (v *Vault) Pin(ctx context.Context, id, name string) error {
	if len(name) > maxPinName {
		return invalid("the name of a pin has %d bytes, at most %d", len(name), maxPinName)
	}
	key, err := v.findPoint(ctx, id)
	if err != nil {
		return fmt.Errorf("pin point %s: %w", id, err)
	}
	pin := pinKey(key)
	if err := v.putPin(ctx, pin, name); err != nil {
		return fmt.Errorf("pin point %s: %w", id, err)
	}
	// Whoever removes points looks at the pins, then removes, then looks at the pins
	// again and puts back what was pinned meanwhile. So only one that was gone before
	// the pin stays away.
	if _, err := v.st.Stat(ctx, key); errors.Is(err, ErrNotFound) {
		_ = v.st.Delete(ctx, pin)
		return fmt.Errorf("pin point %s: it was removed meanwhile: %w", id, ErrNotFound)
	} else if err != nil {
		return fmt.Errorf("pin point %s: %w", id, err)
	}
	return nil
}

// putPin creates a pin.
func (v *Vault) putPin(ctx context.Context, pin, name string) error {
	record, err := format.EncodePin(&format.Pin{Name: name, Time: time.Now().UnixNano()})
	if err != nil {
		return err
	}
	b := v.sealed(&pinForm, pin, record)
	return v.st.Put(ctx, pin, b)
}

// Unpin lets a point go by the retention again, readable or not, and also if the point
// is gone. It returns ErrNotFound if the point is not pinned.
func (v *Vault) Unpin(ctx context.Context, id string) error {
	var pins []string
	err := v.st.List(ctx, pinPrefix, func(i store.Info) error {
		if point, ok := pinnedKey(i.Key); ok {
			if _, _, have, _ := parsePointKey(point); have == id {
				pins = append(pins, i.Key)
			}
		}
		return nil
	})
	if err == nil && len(pins) == 0 {
		err = fmt.Errorf("it is not pinned: %w", ErrNotFound)
	}
	for _, pin := range pins {
		if err == nil {
			err = v.st.Delete(ctx, pin)
		}
	}
	if err != nil {
		return fmt.Errorf("unpin point %s: %w", id, err)
	}
	return nil
}

// Pins returns all pins, and an error for each that cannot be read.
func (v *Vault) Pins(ctx context.Context) ([]Pin, []error, error) {
	var pins []Pin
	var bad []error
	err := v.st.List(ctx, pinPrefix, func(i store.Info) error {
		point, ok := pinnedKey(i.Key)
		if !ok {
			return nil
		}
		p, err := v.openPin(ctx, i.Key)
		group, _, id, _ := parsePointKey(point)
		switch {
		case err == nil:
			pins = append(pins, Pin{Point: id, Group: group, Name: p.Name, Time: fromNano(p.Time)})
		case errors.Is(err, ErrDamaged), errors.Is(err, ErrVersion):
			bad = append(bad, err)
		case !errors.Is(err, ErrNotFound): // unpinned since it was listed
			return err
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list pins: %w", err)
	}
	return pins, bad, nil
}

func (v *Vault) openPin(ctx context.Context, key string) (*format.Pin, error) {
	plain, err := v.unsealed(ctx, &pinForm, key)
	if err != nil {
		return nil, err
	}
	p, err := format.DecodePin(plain)
	return p, damaged(key, err)
}

// pinned returns the keys of the points that have a pin, readable or not.
func (v *Vault) pinned(ctx context.Context) (map[string]bool, error) {
	keys := map[string]bool{}
	err := v.st.List(ctx, pinPrefix, func(i store.Info) error {
		if point, ok := pinnedKey(i.Key); ok {
			keys[point] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	return keys, nil
}
