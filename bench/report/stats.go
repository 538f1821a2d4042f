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
