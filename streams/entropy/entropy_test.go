package entropy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func text(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "Nov 30 13:%02d:%02d host%d sshd[%d]: session opened for user %x\n", i/60%60, i%60, i%7, i*31, i*i)
	}
	return b.Bytes()[:n]
}

func TestDense(t *testing.T) {
	for _, n := range []int{4096, 8192, 16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		for seed := range 200 {
			if b := noise(byte(seed), n); !Dense(b) {
				t.Fatalf("noise of %d bytes is taken for compressible", n)
			}
		}
		if Dense(text(n)) || Dense(make([]byte, n)) {
			t.Errorf("text or zeros of %d bytes are taken for noise", n)
		}
		// A tenth of it is worth a try, wherever it is.
		for at := range 10 {
			for _, fill := range [][]byte{text(n / 10), make([]byte, n/10)} {
				b := noise(byte(at), n)
				copy(b[at*(n/10):], fill)
				if Dense(b) {
					t.Errorf("%d bytes with a tenth of sense at %d are taken for noise", n, at)
				}
			}
		}
	}
	for _, n := range []int{0, 1, 3, 63, 65} { // no trouble with odd sizes
		Dense(noise(1, n))
	}
}

func BenchmarkDense(b *testing.B) {
	data := noise(1, 256<<10)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		Dense(data)
	}
}
