package entropy

// So many samples of run bytes are taken; all of it if there is little.
const (
	run     = 64
	samples = 80
	whole   = 8 << 10
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
	n, step := 0, run
	if len(data) > whole {
		// An odd number of runs, so that samples do not fall on the same place of each block.
		step = (len(data)/samples/run | 1) * run
	}
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
		at += step
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
