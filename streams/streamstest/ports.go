package streamstest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// firstPort and ports are where Addresses looks: below what a kernel gives to whoever asks
// for any port, or connects. A port of that range, given back to be taken again later, may
// be the local end of somebody else's connection by then, or of one that was made to the
// port itself while nobody listened there.
const firstPort, ports = 10000, 20000

// Addresses are places on the loopback where nobody listens, each another one. Whoever
// takes one may leave it and take it again.
func Addresses(t testing.TB, n int) (all []string) {
	t.Helper()
	for tries := 0; len(all) < n; tries++ {
		at := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(ports)))
		l, err := net.Listen("tcp", at)
		if err != nil {
			if tries > 1000 {
				t.Fatalf("find a free port: %v", err)
			}
			continue
		}
		defer l.Close() // when all are found: none is given twice
		all = append(all, at)
	}
	return all
}
