package trace

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	eventPath    = "events/block/block_rq_complete"
	queuePath    = "events/block/block_bio_queue"
	logPath      = "events/printk/console"
	instanceMark = "leeward-"
)

// ensureTracefs makes sure that tracefs is at root.
func ensureTracefs(root string) error {
	if _, err := os.Stat(filepath.Join(root, "instances")); err == nil {
		return nil
	}
	if _, err := os.Stat(root); err != nil {
		return fmt.Errorf("this kernel has no tracing: %w", err)
	}
	if err := unix.Mount("tracefs", root, "tracefs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount tracefs on %s: %w (root is needed)", root, err)
	}
	return nil
}

// readLayout reads where the event's fields are.
func readLayout(root string) (layout, error) {
	format, err := os.ReadFile(filepath.Join(root, eventPath, "format"))
	if err != nil {
		return layout{}, fmt.Errorf("this kernel has no event block_rq_complete or it may not be read: %w", err)
	}
	header, err := os.ReadFile(filepath.Join(root, "events/header_page"))
	if err != nil {
		return layout{}, err
	}
	return parseLayout(format, header)
}

// watched is an event that is recorded, and which of its kind.
type watched struct{ event, filter string }

// filters are the filters of all events as one text.
func filters(all []watched) string {
	var b strings.Builder
	for i, w := range all {
		if i > 0 {
			b.WriteString("; " + w.event + ": ")
		}
		b.WriteString(w.filter)
	}
	return b.String()
}

// instance is a private set of ring buffers.
//
// It is pinned from its making until right before its removal: an open tracing_on
// holds a reference, so that nobody can remove it under a write. That matters: some
// files of tracefs (all of options/, events/ on older kernels) take no reference
// when they are opened, and a write to them that races with the removal of their
// instance brings the kernel down. So nothing below options/ is ever written, the
// pin is held over every other write, and removing is one rmdir and no write.
type instance struct {
	dir string
	pin *os.File
}

// newInstance makes an instance that can be told to be this process's.
func newInstance(root, name string) (*instance, error) {
	born, err := bornAt(os.Getpid())
	if err != nil {
		return nil, err
	}
	// Random, because one process may follow a disk anew before the old source is closed.
	return makeInstance(root, fmt.Sprintf("%s%s_%08x-%d-%s", instanceMark, name, rand.Uint32(), os.Getpid(), born))
}

// makeInstance makes and pins an instance.
func makeInstance(root, full string) (*instance, error) {
	in := &instance{dir: filepath.Join(root, "instances", full)}
	err := os.Mkdir(in.dir, 0o700)
	if err != nil {
		return nil, fmt.Errorf("make a tracing instance: %w", err)
	}
	if in.pin, err = os.Open(filepath.Join(in.dir, "tracing_on")); err != nil {
		return nil, errors.Join(fmt.Errorf("pin a tracing instance: %w", err), os.Remove(in.dir))
	}
	return in, nil
}

// keptMark begins the names of instances that outlive their process. They have no
// second dash: the rule for instances that end with their process is not theirs.
const keptMark = instanceMark + "kept_"

// newKept makes an instance that is not tied to this process. Its name ends with the
// device's number, the kernel's number of the disk, and something random.
func newKept(root, name string, major, minor uint32, sequence string) (*instance, error) {
	return makeInstance(root, fmt.Sprintf("%s%s_%d_%d_%s_%08x", keptMark, name, major, minor, "q"+sequence, rand.Uint32()))
}

// keptFor reads the device's number and the disk's number from a kept instance's name.
func keptFor(name string) (major, minor, sequence string, ok bool) {
	p := strings.Split(name, "_")
	n := len(p)
	if !strings.HasPrefix(name, keptMark) || n < 6 || !strings.HasPrefix(p[n-2], "q") {
		return "", "", "", false
	}
	return p[n-4], p[n-3], p[n-2][1:], true
}

// openKept pins an instance that another process has made, if it is the same one.
func openKept(root, name string, inode uint64) (*instance, error) {
	in := &instance{dir: filepath.Join(root, "instances", filepath.Base(name))}
	pin, err := os.Open(filepath.Join(in.dir, "tracing_on"))
	if err != nil {
		return nil, fmt.Errorf("the kernel no longer records: %w", err)
	}
	in.pin = pin
	if n, err := in.inode(); err != nil || n != inode {
		in.unpin()
		return nil, fmt.Errorf("the tracing instance %s is not the one that was left (%d, %d, %v)", name, n, inode, err)
	}
	return in, nil
}

// inode is the number of the instance's directory: another instance of that name
// has another.
func (in *instance) inode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(in.dir, &st); err != nil {
		return 0, fmt.Errorf("look up the tracing instance: %w", err)
	}
	return st.Ino, nil
}

func (in *instance) unpin() {
	if in.pin != nil {
		_ = in.pin.Close()
		in.pin = nil
	}
}

// removeKept removes the kept instances that which selects and that no process works
// on: whoever does has them pinned.
func removeKept(root string, which func(major, minor, sequence string) bool) (removed []string) {
	entries, _ := os.ReadDir(filepath.Join(root, "instances"))
	for _, e := range entries {
		major, minor, sequence, ok := keptFor(e.Name())
		if ok && which(major, minor, sequence) && unix.Rmdir(filepath.Join(root, "instances", e.Name())) == nil {
			removed = append(removed, e.Name())
		}
	}
	return removed
}

// gone says whether the disk of a kept instance is no longer there. What was kept of
// it can never be taken over.
func gone(major, minor, sequence string) bool {
	dir := filepath.Join("/sys/dev/block", major+":"+minor)
	if _, err := os.Stat(dir); err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	now, err := os.ReadFile(filepath.Join(dir, "diskseq"))
	return err == nil && sequence != "" && strings.TrimSpace(string(now)) != sequence
}

// as says whether the instance is set up as configure does it.
func (in *instance) as(all []watched) error {
	same := true
	for _, w := range all {
		have, err := os.ReadFile(filepath.Join(in.dir, w.event, "filter"))
		if err != nil {
			return err
		}
		same = same && strings.TrimSpace(string(have)) == w.filter
	}
	options, err := os.ReadFile(filepath.Join(in.dir, "trace_options"))
	if err != nil {
		return err
	}
	if !same || !strings.Contains("\n"+string(options), "\nnooverwrite\n") {
		return errors.New("somebody set the tracing instance up in another way meanwhile")
	}
	return nil
}

// filterOf is the filter for one device: what wrote, not what read. Each condition costs
// time at each event, so events of no sectors, which are few, are left to the reader.
func filterOf(major, minor uint32) string {
	return fmt.Sprintf(`dev == %d && !(rwbs ~ "R*")`, uint64(major)<<20|uint64(minor))
}

// removeStale removes the instances of agents that are dead, and those kept for disks
// that are gone. The kernel refuses to remove one that is in use, so a wrong guess
// here does no harm.
func removeStale(root string) {
	removeKept(root, gone)
	entries, _ := os.ReadDir(filepath.Join(root, "instances"))
	for _, e := range entries {
		parts := strings.Split(e.Name(), "-")
		if !strings.HasPrefix(e.Name(), instanceMark) || len(parts) < 3 {
			continue
		}
		pid, err := strconv.Atoi(parts[len(parts)-2])
		if err != nil || pid <= 0 {
			continue
		}
		if born, err := bornAt(pid); err == nil && born == parts[len(parts)-1] {
			continue
		}
		// Whoever uses it has it pinned: then this fails, which is right.
		_ = unix.Rmdir(filepath.Join(root, "instances", e.Name()))
	}
}

// bornAt is when a process started, in the kernel's ticks: with it a pid is unique.
func bornAt(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name in parentheses may hold anything; fields count from behind it.
	at := strings.LastIndexByte(string(b), ')')
	f := strings.Fields(string(b[at+1:]))
	if at < 0 || len(f) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has too few fields", pid)
	}
	return f[19], nil
}

func (in *instance) write(name, value string) error {
	f, err := os.OpenFile(filepath.Join(in.dir, name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %q to %s: %w", value, filepath.Join(in.dir, name), err)
	}
	return nil
}

// configure sets the rings up for some events, tracing still off.
func (in *instance) configure(all []watched, bufferKB int) error {
	if err := in.write("tracing_on", "0"); err != nil {
		return err
	}
	if err := in.resize(bufferKB); err != nil {
		return err
	}
	// Drop what is new when full, so that a loss shows in a counter; do not spend
	// time on names of tasks.
	_ = in.write("trace_options", "norecord-cmd")
	_ = in.write("trace_clock", "uptime") // the cheapest to read: nobody looks at the time
	if err := in.write("trace_options", "nooverwrite"); err != nil {
		return err
	}
	for _, w := range all {
		if err := in.write(filepath.Join(w.event, "filter"), w.filter); err != nil {
			return err
		}
	}
	return in.enable(all)
}

func (in *instance) enable(all []watched) error {
	for _, w := range all {
		if err := in.write(filepath.Join(w.event, "enable"), "1"); err != nil {
			return err
		}
	}
	return nil
}

// resize asks for a size of each ring and takes less if memory is short.
func (in *instance) resize(kb int) error {
	const least = 256
	for {
		err := in.write("buffer_size_kb", strconv.Itoa(kb))
		if err == nil || !errors.Is(err, unix.ENOMEM) || kb/2 < least {
			return err
		}
		kb /= 2
	}
}

// removeWithin is how long an instance may be busy after the last of our own files
// in it was closed: a child of this process holds them too between fork and exec.
const removeWithin = 5 * time.Second

// remove takes the instance out of the kernel, with whatever it records. All other
// files in it must be closed. Events need not be switched off: the kernel does.
func (in *instance) remove() error {
	in.unpin()
	for end := time.Now().Add(removeWithin); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Rmdir(in.dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EBUSY) && time.Now().Before(end):
			continue
		}
		return fmt.Errorf("remove the tracing instance %s: %w", in.dir, err)
	}
}
