package report

import (
	"math"
	"slices"
	"time"
)

// Median returns the middle of x, the mean of the two in the middle if there is no
// one, and NaN for nothing.
func Median(x []float64) float64 { return Quantile(x, 0.5) }

// Quantile returns the value below which the share q of x lies, interpolating
// between neighbours, and NaN for nothing.
func Quantile(x []float64, q float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(x))
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

// Seconds turns durations into numbers.
func Seconds(d []time.Duration) []float64 {
	x := make([]float64, len(d))
	for i := range d {
		x[i] = d[i].Seconds()
	}
	return x
}

// Line fits a straight line by least squares, and returns its slope and the part of
// the variance that it explains (R squared): 1 is a straight line. Both are 0 for
// fewer than two points.
func Line(x, y []float64) (slope, fit float64) {
	n := float64(len(x))
	if len(x) < 2 {
		return 0, 0
	}
	var mx, my float64
	for i := range x {
		mx, my = mx+x[i]/n, my+y[i]/n
	}
	var xx, xy, yy float64
	for i := range x {
		xx += (x[i] - mx) * (x[i] - mx)
		xy += (x[i] - mx) * (y[i] - my)
		yy += (y[i] - my) * (y[i] - my)
	}
	if xx == 0 || yy == 0 {
		return 0, 0
	}
	return xy / xx, xy * xy / xx / yy
}

// MedianInterval is within what the median of where x came from lies 95 of 100 times,
// whatever its distribution: by the ranks of the binomial distribution (Conover,
// Practical Nonparametric Statistics). It is the whole of x where x has fewer than six.
func MedianInterval(x []float64) (low, high float64) {
	if len(x) == 0 {
		return math.NaN(), math.NaN()
	}
	s := slices.Sorted(slices.Values(x))
	n := len(s)
	// p is the chance that at most k of n lie below the median; the k-th from either
	// end is outside of the interval while that is under 2.5 %.
	k, p := 0, math.Pow(0.5, float64(n))
	for term := p; k < n/2; {
		term *= float64(n-k) / float64(k+1)
		if p+term > 0.025 {
			break
		}
		p += term
		k++
	}
	return s[k], s[n-1-k]
}
