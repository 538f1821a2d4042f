package load

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Missing says why fio cannot be used, "" if it can.
func Missing() string {
	if m, ok := rig.Have("fio"); !ok {
		return m + " is not installed"
	}
	return ""
}

// A job is one of fio's writers; weights are shares of the whole rate.
type job struct {
	name    string
	weight  int64
	options string
}

var jobs = []job{
	{"buffered", 40, "rw=randwrite bsrange=4k-64k ioengine=psync"},
	{"direct", 20, "rw=randwrite bssplit=4k/70:16k/30 direct=1 ioengine=psync"},
	{"synced", 20, "rw=randwrite bssplit=4k/60:32k/40 fsync=16 ioengine=psync"},
	{"mapped", 10, "rw=randwrite bs=4k ioengine=mmap"},
	{"sequential", 10, "rw=write bs=64k ioengine=psync"},
}

// StartFio starts fio below dir until it is stopped. room bounds what its files
// take up and rate what it writes, in bytes and bytes a second.
func StartFio(r *rig.Rig, name, dir string, room, rate int64, seed uint64) (*rig.Process, error) {
	work := filepath.Join(dir, "fio")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, fmt.Errorf("make directory for fio: %w", err)
	}
	// Threads, not processes: fio's processes would live on when fio is killed.
	var b strings.Builder
	fmt.Fprintf(&b, "[global]\nthread=1\ndirectory=%s\ntime_based=1\nruntime=7d\nsize=%d\nrandseed=%d\nallow_file_create=1\nfallocate=none\nunlink=0\n",
		work, room/int64(len(jobs))&^0xffff, seed)
	for _, j := range jobs {
		fmt.Fprintf(&b, "[%s]\n%s\nrate=,%d\n", j.name, strings.ReplaceAll(j.options, " ", "\n"), rate*j.weight/100)
	}
	file := filepath.Join(r.Dir, name+".fio")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		return nil, fmt.Errorf("write fio's job file: %w", err)
	}
	return r.Start(rig.Command{Name: name, Argv: []string{"fio", "--output-format=terse", file}, Dir: r.Dir})
}
