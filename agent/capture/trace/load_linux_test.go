package trace_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

// load runs writers of every kind on a filesystem until the test is over: direct,
// buffered and mmap by fio; create, punch and delete; fstrim.
func load(t *testing.T, dir string) {
	t.Helper()
	job := `[global]
directory=` + dir + `
size=24m
thread=1
time_based=1
runtime=3600
group_reporting=1
randrepeat=0
rate_iops=4000
[direct]
ioengine=libaio
iodepth=16
direct=1
rw=randwrite
bsrange=4k-64k
[buffered]
ioengine=psync
rw=randwrite
bs=4k
fsync=64
[mapped]
ioengine=mmap
rw=randwrite
bs=4k
rate_iops=1000
`
	file := filepath.Join(t.TempDir(), "load.fio")
	if err := os.WriteFile(file, []byte(job), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command("fio", file)
	cmd.Dir, cmd.Stdout, cmd.Stderr = t.TempDir(), &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // must not outlive a killed test
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { churn(t, dir, stop) })
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
		_ = cmd.Process.Signal(unix.SIGINT)
		if err := cmd.Wait(); err != nil && t.Failed() {
			t.Logf("fio: %v\n%s", err, out.Bytes())
		}
	})
	disktest.Eventually(t, waitLong, "fio's files", func() bool {
		m, _ := filepath.Glob(dir + "/*.0")
		return len(m) == 3
	})
}

// churn creates, punches, renames and deletes files, and trims now and then.
func churn(t *testing.T, dir string, stop <-chan struct{}) {
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 1))
	buf := make([]byte, 256<<10)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		name := filepath.Join(dir, "churn"+strconv.Itoa(i%16))
		f, err := os.Create(name)
		if err != nil {
			t.Errorf("load: %v", err)
			return
		}
		for j := range buf {
			buf[j] = byte(rnd.Uint32())
		}
		_, err = f.Write(buf[:1+rnd.IntN(len(buf))])
		if err == nil && i%3 == 0 {
			err = f.Sync()
		}
		_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096*rnd.Int64N(8), 4096*(1+rnd.Int64N(8)))
		if cerr := f.Close(); err != nil || cerr != nil {
			t.Errorf("load: %v %v", err, cerr)
			return
		}
		if i%2 == 0 {
			_ = os.Remove(filepath.Join(dir, "churn"+strconv.Itoa(rnd.IntN(16))))
		}
		if i%200 == 199 {
			_ = exec.Command("fstrim", dir).Run()
		}
	}
}
