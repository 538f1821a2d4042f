package process

import (
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

// verdict is what becomes of a link.
type verdict uint8

const (
	fits   verdict = iota // the next link
	opens                 // the first link of a newer epoch
	repeat                // the chain has it
	early                 // links before it are missing
	forked                // contradicts the chain
	fenced                // of an epoch that has ended
	behind                // opens an epoch that needs more than the chain has
)

func (v verdict) String() string {
	return [...]string{"fits", "opens", "repeat", "early", "forked", "fenced", "behind"}[v]
}

// follow says what becomes of link c with hash h of a chain whose last link is
// head, and in one sentence why, if the answer is not the usual one.
func follow(head vault.Head, c *wire.Change, h wire.Hash) (verdict, string) {
	switch {
	case c.Epoch < head.Epoch:
		if c.Epoch == head.Base.Epoch && c.Number <= head.Base.Number {
			return repeat, ""
		}
		return fenced, fmt.Sprintf("link %d belongs to epoch %d, epoch %d has begun", c.Number, c.Epoch, head.Epoch)
	case c.Epoch > head.Epoch:
		if c.Open == nil {
			return early, fmt.Sprintf("link 1 of epoch %d is missing, the vault stands at link %d of epoch %d", c.Epoch, head.Number, head.Epoch)
		}
		least := vault.Position{Epoch: c.Open.MinEpoch, Number: c.Open.MinNumber}
		if less(head.Position, least) {
			return behind, fmt.Sprintf("the vault stands at link %d of epoch %d, but link %d of epoch %d was confirmed before: the vault has lost data",
				head.Number, head.Epoch, least.Number, least.Epoch)
		}
		return opens, ""
	case c.Open != nil && head.Open != nil && (c.Open.Instance != head.Open.Instance || c.Time != head.Open.Time.UnixNano()):
		return forked, fmt.Sprintf("epoch %d is that of agent %s, not of %s", c.Epoch, head.Open.Instance, c.Open.Instance)
	case c.Number < head.Number:
		return repeat, ""
	case c.Number == head.Number:
		if h == wire.Hash(head.Hash) {
			return repeat, ""
		}
		return forked, fmt.Sprintf("another link %d of epoch %d is there already", c.Number, c.Epoch)
	case c.Number > head.Number+1:
		return early, fmt.Sprintf("link %d of epoch %d is missing", head.Number+1, head.Epoch)
	case c.Prev != wire.Hash(head.Hash):
		return forked, fmt.Sprintf("link %d of epoch %d does not follow the link %d that is there", c.Number, c.Epoch, head.Number)
	}
	return fits, ""
}

// advance returns where the chain stands behind link c, which fits or opens: as much
// of it as follow asks for.
func advance(head vault.Head, c *wire.Change, h wire.Hash) vault.Head {
	next := vault.Head{Position: vault.Position{Epoch: c.Epoch, Number: c.Number}, Hash: h, Base: head.Base, Open: head.Open}
	if c.Open != nil {
		next.Base = head.Position
		next.Open = &vault.Open{Instance: c.Open.Instance, Time: time.Unix(0, c.Time)}
	}
	return next
}

// less reports whether a is before b in a disk's history.
func less(a, b vault.Position) bool {
	return a.Epoch < b.Epoch || a.Epoch == b.Epoch && a.Number < b.Number
}
