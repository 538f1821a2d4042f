package qemu

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// BenchmarkBoot boots a Linux from its point, from one that is copied here meanwhile, and
// from a file, until it says that it lives. CPU seconds are QEMU's; those of the server here come on top.
func BenchmarkBoot(b *testing.B) {
	targettest.Need(b, "qemu-system-x86_64")
	for _, kernel := range []string{"generic", "cloud"} {
		image := targettest.Bootable(b, "tiny", "--kernel", kernel)
		for _, hw := range []Hardware{Compatible, Virtio} {
			if kernel == "cloud" && hw == Compatible {
				continue // it has no drivers for that
			}
			for _, from := range []string{"point", "copied", "file"} {
				b.Run(kernel+"/"+string(hw)+"/"+from, func(b *testing.B) {
					var cpu time.Duration
					for b.Loop() {
						if from != "file" {
							cpu += bootPoint(b, image, Config{Hardware: hw, Hydrate: from == "copied", PowerOff: time.Millisecond})
						} else {
							cpu += bootFile(b, image, hw)
						}
					}
					b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
				})
			}
		}
	}
}

func bootPoint(b *testing.B, image string, cfg Config) time.Duration {
	r, err := New(cfg).Start(b.Context(), machine(targettest.Image(b, "sda", image)), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer r.Stop(context.Background())
	res, err := r.Probe(b.Context(), target.Probe{Serial: "HEARTBEAT", Timeout: tinyTime})
	if err != nil || !res.Alive {
		b.Fatal(err, res)
	}
	r.Stop(context.Background())
	state := r.(*Run).proc.cmd.ProcessState
	return state.UserTime() + state.SystemTime()
}

// disks is what tells QEMU of a disk that is served over NBD.
var disks = regexp.MustCompile(`^\{.*"driver":"nbd".*"node-name":"(disk[0-9]+)".*\}$`)

func bootFile(b *testing.B, image string, hw Hardware) time.Duration {
	dir := b.TempDir()
	data, err := os.ReadFile(image)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "disk"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	a, _ := new(accelerator).find(b.Context(), "qemu-system-x86_64")
	args := (&plan{name: "file", cpus: 1, memoryMiB: 512, disks: 1, hardware: hw, accel: a}).args()
	for i, a := range args {
		args[i] = disks.ReplaceAllString(a, `{"driver":"raw","node-name":"$1","file":{"driver":"file","filename":"disk"}}`)
	}
	p, err := launch("qemu-system-x86_64", args, dir)
	if err != nil {
		b.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, serialFile))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	s := newSerial(start)
	read := make(chan struct{})
	go func() { defer close(read); s.read(p.serial, log) }()
	m := newMonitor(p.qmp, func(event) {})
	for _, c := range []string{"qmp_capabilities", "cont"} {
		if err := m.call(b.Context(), c, nil, nil); err != nil {
			b.Error(err, p.said())
		}
	}
	targettest.WaitFor(b, tinyTime, "the guest lives", func() bool { return s.find(regexp.MustCompile("HEARTBEAT"), 0).found })
	p.kill()
	m.close()
	<-read
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}
