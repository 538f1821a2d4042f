package nbd_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

var completed = regexp.MustCompile(`Run completed in ([0-9.]+) seconds`)

// BenchmarkAgainstQemuNBD reads with qemu-img's bench, 16 requests at once, from this
// server and from qemu-nbd over the same bytes.
func BenchmarkAgainstQemuNBD(b *testing.B) {
	targettest.Need(b, "qemu-img", "qemu-nbd")
	const size = 256 << 20
	data := make([]byte, size)
	for i := 0; i < size; i += 4096 {
		data[i] = 1 // no holes
	}
	dir, image, _ := serve(b, data)
	other := exec.Command("qemu-nbd", "-r", "-t", "-e", "4", "-f", "raw", "-k", filepath.Join(dir, "q"), image)
	if err := other.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { other.Process.Kill(); other.Wait() }()
	targettest.WaitFor(b, 10*time.Second, "qemu-nbd listens", func() bool {
		return exec.Command("nbdinfo", "--size", "nbd+unix:///?socket="+filepath.Join(dir, "q")).Run() == nil
	})
	for _, block := range []int{4 << 10, 64 << 10, 1 << 20} {
		for name, uri := range map[string]string{"ours": uriRO, "qemu-nbd": "nbd+unix:///?socket=q"} {
			b.Run(fmt.Sprintf("%dKiB/%s", block>>10, name), func(b *testing.B) {
				count := max(b.N, 1000)
				out := run(b, dir, "qemu-img", "bench", "-f", "raw", "-c", strconv.Itoa(count), "-d", "16", "-s", strconv.Itoa(block), uri)
				m := completed.FindStringSubmatch(out)
				if m == nil {
					b.Fatal(out)
				}
				seconds, _ := strconv.ParseFloat(m[1], 64)
				b.ReportMetric(float64(count)*float64(block)/seconds/1e6, "MB/s")
			})
		}
	}
}
