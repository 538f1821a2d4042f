package policy

import (
	"cmp"
	"math"
	"slices"
)

// Want is what one of those who share a rate did lately.
type Want struct {
	Speed  int64 // bytes a second that it sent
	Hungry bool  // it was held back by its share: it would send more
}

// floorPart is which part of an even share everybody has, whatever it did lately, so
// that one who wakes can send something before the next division.
const floorPart = 4

// Divide divides a rate between those who want to send, and returns a share for
// each, at least 1. Together they have no more than total, as far as that is a byte
// a second for each.
//
// Everybody has a quarter of an even share. Those who are not held back get half as
// much again as they sent, those who are held back as much as anybody; what nobody
// wants is given to all alike.
func Divide(total int64, wants []Want) []int64 {
	n := int64(len(wants))
	if n == 0 {
		return nil
	}
	floor := total / n / floorPart
	shares := make([]int64, n)
	need := make([]int64, n)
	order := make([]int, n)
	for i, w := range wants {
		shares[i], order[i] = floor, i
		need[i] = max(0, min(w.Speed, total)*3/2-floor)
		if w.Hungry {
			need[i] = math.MaxInt64
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(need[a], need[b]) })
	left := total - floor*n
	for k, i := range order {
		got := min(need[i], left/(n-int64(k)))
		shares[i] += got
		left -= got
	}
	for i := range shares {
		shares[i] = max(1, shares[i]+left/n)
	}
	return shares
}
