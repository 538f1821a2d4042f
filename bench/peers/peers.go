package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Tool is a peer with a repository of its own. Its methods are called in this
// order: Init, with the image of day one at Source, Backup of day one, of day two and
// so on, Restore, First. One that is a Follower hears of the changes between the days,
// and one that is an io.Closer is closed in the end.
type Tool interface {
	// Name is how the tool is called in tables.
	Name() string
	// Note says what is switched on, for people.
	Note() string
	// Missing says why the tool cannot be used here, "" if it can.
	Missing() string
	// Encrypted says whether what it stores is encrypted.
	Encrypted() bool
	// Init makes an empty repository.
	Init(ctx context.Context) error
	// Backup stores the disk image at Source, as day 1, 2 and so on.
	Backup(ctx context.Context, day int) (rig.Usage, error)
	// Restore writes the newest state to a new raw file and returns its path.
	Restore(ctx context.Context) (rig.Usage, string, error)
	// First starts the tool and reads 4 KiB of the newest state, at off if the tool can,
	// and returns them with the offset they come from and how long it took.
	First(ctx context.Context, off int64) (b []byte, at int64, took time.Duration, err error)
}

// Follower is a tool that has a disk of its own and sees what is written to it.
type Follower interface {
	// Change copies blocks, of rig.Block bytes, of an image to the disk.
	Change(ctx context.Context, image string, blocks []int64) error
}

// Place is where a tool works.
type Place struct {
	Dir    string // private to the tool, on the disk under test
	Source string // path of the image, the same for both days
}

// All lists every peer that this package can drive, in a fixed order.
func All(p Place) []Tool {
	in := func(name string) Place { return Place{filepath.Join(p.Dir, name), p.Source} }
	return []Tool{restic{in("restic")}, borg{in("borg")}, qemu{in("qemu-img")}, &bitmap{qemu: qemu{in("qemu-bitmap")}}}
}

func (p Place) repo() string { return filepath.Join(p.Dir, "repo") }
func (p Place) out() string  { return filepath.Join(p.Dir, "out") }

// Stored is how many bytes the tool's repository takes up.
func (p Place) Stored() (n int64, err error) { return Bytes(p.repo()) }

// Bytes adds up the sizes of all files below dir.
func Bytes(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it was a temporary file
			}
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		n += info.Size()
		return nil
	})
	return n, err
}

// Stored asks a tool how many bytes it has stored.
func Stored(t Tool) (int64, error) {
	s, ok := t.(interface{ Stored() (int64, error) })
	if !ok {
		return 0, fmt.Errorf("%s does not say what it stored", t.Name())
	}
	return s.Stored()
}

// clean makes the tool's directory anew.
func (p Place) clean() error {
	if err := os.RemoveAll(p.Dir); err != nil {
		return err
	}
	return os.MkdirAll(p.repo(), 0o755)
}

func (p Place) measure(ctx context.Context, name string, env []string, argv ...string) (rig.Usage, error) {
	u, _, err := rig.Measure(ctx, rig.Command{Name: name, Argv: argv, Env: env, Dir: p.Dir}, func() error { return rig.Syncfs(p.Dir) })
	return u, err
}

func (p Place) run(ctx context.Context, env []string, argv ...string) (string, error) {
	_, out, err := rig.Measure(ctx, rig.Command{Name: argv[0], Argv: argv, Env: env, Dir: p.Dir}, nil)
	return out, err
}

// Head starts a program and takes the first n bytes it prints; the rest is not wanted.
// said is what it wrote to its standard error until then.
func Head(ctx context.Context, n int, env []string, argv ...string) (b []byte, said string, took time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var msg bytes.Buffer
	cmd.Stderr = &msg
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, "", 0, err
	}
	b = make([]byte, n)
	got, err := io.ReadFull(out, b)
	took = time.Since(began)
	cancel()
	_ = cmd.Wait() // it was cut off
	said = strings.TrimSpace(msg.String())
	if err != nil {
		return nil, said, took, fmt.Errorf("%s printed %d bytes, want %d: %s", argv[0], got, n, said)
	}
	return b, said, took, nil
}
