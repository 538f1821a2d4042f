package trace_test

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

// guestMark is in the environment of the first process of a guest: the kernel puts words
// of its command line there that it does not know.
const guestMark = "leeward_guest"

const guestSaid = "GUEST-RESULT "

// TestJoinedDiscards boots a kernel with an NVMe disk, which takes many ranges in one
// discard, and runs TestGuest there: this machine's kernel may know no such disk.
func TestJoinedDiscards(t *testing.T) {
	if os.Getenv("LEEWARD_FULL") != "1" {
		t.Skip("boots a guest for a minute or two: only with LEEWARD_FULL=1")
	}
	for _, tool := range []string{"qemu-system-x86_64", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("needs %s: %v", tool, err)
		}
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "init")
	build := exec.Command("go", "test", "-c", "-vet=off", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest's program: %v\n%s", err, out)
	}
	isStatic(t, program)
	kernel := guestKernel(t)
	ramdisk := filepath.Join(dir, "ramdisk")
	writeRamdisk(t, ramdisk, program, kernel)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	args := []string{"-machine", "pc,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "2048", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", filepath.Join(kernel, "vmlinuz"), "-initrd", ramdisk,
		"-append", "console=ttyS0 quiet panic=-1 " + guestMark + "=1"}
	for i, size := range []int64{guestDisk, 8 * mib} {
		drive := fmt.Sprintf("if=none,id=d%d,format=raw,discard=unmap,file=%s", i, disktest.Image(t, size))
		if i == 0 {
			drive += ",throttling.iops-total=400" // reads and writes are slow, so discards wait behind them
		}
		args = append(args, "-drive", drive, "-device", fmt.Sprintf("nvme,drive=d%d,serial=%d", i, i))
	}
	var said bytes.Buffer
	guest := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	guest.Stdout, guest.Stderr = &said, &said
	err := guest.Run()
	t.Logf("the guest said:\n%s", said.String())
	if err != nil || !strings.Contains(said.String(), guestSaid+"0") {
		t.Fatalf("the guest failed: %v", err)
	}
}

func isStatic(t *testing.T, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Fatalf("%s needs libraries, a guest has none", program)
	}
}

// guestKernel is a folder with a kernel and the modules of NVMe: that of the bootable
// images of package control/target.
func guestKernel(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	find := func() string {
		all, _ := filepath.Glob(filepath.Join(cache, "leeward/kernel-*/lib/modules/*/kernel/drivers/nvme/host/nvme.ko"))
		for _, m := range all {
			if dir, _, ok := strings.Cut(m, "/lib/modules/"); ok {
				return dir
			}
		}
		return ""
	}
	if dir := find(); dir != "" {
		return dir
	}
	disktest.Run(t, "bash", "../../../deploy/images/make-bootable.sh", "tiny", filepath.Join(t.TempDir(), "tiny.img"))
	dir := find()
	if dir == "" {
		t.Fatal("make-bootable.sh has left no kernel with NVMe")
	}
	return dir
}

// writeRamdisk writes what the guest has: the program and the driver.
func writeRamdisk(t *testing.T, to, program, kernel string) {
	t.Helper()
	var b bytes.Buffer
	add := func(name string, mode int, content []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(content)
		b.Write(make([]byte, -b.Len()&3))
	}
	for _, d := range []string{"dev", "proc", "sys", "tmp"} {
		add(d, 0o40755, nil)
	}
	read := func(path string) []byte {
		c, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	add("init", 0o100755, read(program))
	tables, _ := filepath.Glob(filepath.Join(kernel, "lib/modules/*/modules.dep"))
	if len(tables) != 1 {
		t.Fatalf("kernels %v in %s", tables, kernel)
	}
	driver := nvmeDriver(string(read(tables[0])))
	if len(driver) == 0 {
		t.Fatalf("%s has no NVMe", tables[0])
	}
	for i, m := range driver {
		add(fmt.Sprintf("%d.ko", i), 0o100644, read(filepath.Join(filepath.Dir(tables[0]), m)))
	}
	add("TRAILER!!!", 0, nil)
	if err := os.WriteFile(to, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// nvmeDriver are the modules of the disk's driver, each behind those that it needs.
func nvmeDriver(table string) (driver []string) {
	for line := range strings.Lines(table) {
		name, needs, _ := strings.Cut(line, ":")
		if strings.HasSuffix(name, "/nvme.ko") {
			driver = append([]string{name}, strings.Fields(needs)...)
			slices.Reverse(driver)
		}
	}
	return driver
}

// guestMain is the first process of the guest. It never returns.
func guestMain(m *testing.M) {
	code := 1
	if err := guestUp(); err != nil {
		fmt.Println("guest:", err)
	} else {
		os.Args = []string{os.Args[0], "-test.run=^TestGuest$", "-test.v", "-test.timeout=7m"}
		code = m.Run()
	}
	fmt.Printf("\n%s%d\n", guestSaid, code)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// guestUp mounts what is needed and loads the driver: with two commands at a time at most,
// so that requests wait for each other and are joined.
func guestUp() error {
	for dir, kind := range map[string]string{"/dev": "devtmpfs", "/proc": "proc", "/sys": "sysfs", "/tmp": "tmpfs"} {
		if err := unix.Mount("none", dir, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	out, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(int(out.Fd()), fd, 0); err != nil {
			return err
		}
	}
	modules, _ := filepath.Glob("/*.ko")
	for i, m := range modules { // fewer than ten, so they are in order
		code, err := os.ReadFile(m)
		if err != nil {
			return err
		}
		with := ""
		if i == len(modules)-1 {
			with = "io_queue_depth=2"
		}
		if err := unix.InitModule(code, with); err != nil {
			return fmt.Errorf("load %s: %w", m, err)
		}
	}
	for range 600 {
		if disks, _ := filepath.Glob("/sys/block/nvme*n1/queue/scheduler"); len(disks) == 2 {
			for _, d := range disks {
				if err := os.WriteFile(d, []byte("mq-deadline"), 0); err != nil {
					return err
				}
			}
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("the disks do not appear")
}
