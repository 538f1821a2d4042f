package entropy

// Samples of run bytes are taken, one of every step bytes; all of it if there is little.
const (
	run   = 64
	step  = 1024
	whole = 16 << 10
)

// Dense reports whether data looks like noise: encrypted or well compressed already, so
// that trying to compress it would win next to nothing.
//
// It compares how often each byte occurs with even odds. Noise passes but for one case
// in a billion; one part in ten that is text, code, tables or zeros does not. The one
// thing it cannot see is noise that repeats itself.
func Dense(data []byte) bool {
	if len(data) == 0 {
		return false
	}
	var hist [4][256]uint32 // four, so that equal neighbours do not wait for each other
	n := 0
	for at := 0; at < len(data); {
		part := data[at:min(at+run, len(data))]
		for ; len(part) >= 4; part = part[4:] {
			hist[0][part[0]]++
			hist[1][part[1]]++
			hist[2][part[2]]++
			hist[3][part[3]]++
		}
		for _, c := range part {
			hist[0][c]++
		}
		n += min(run, len(data)-at)
		at += run
		if len(data) > whole {
			at += step - run
		}
	}
	return evenly(&hist, n)
}

// evenly is Pearson's test of n bytes. Noise gives 255 with a deviation of 23; an
// entropy of a hundredth of a bit less than all adds 0.014 for each byte.
func evenly(hist *[4][256]uint32, n int) bool {
	mean, sum := float64(n)/256, 0.0
	for i := range 256 {
		d := float64(hist[0][i]+hist[1][i]+hist[2][i]+hist[3][i]) - mean
		sum += d * d
	}
	return sum/mean < 400+0.014*float64(n)
}
