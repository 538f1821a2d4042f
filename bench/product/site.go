package product

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/embed/appliance"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Site is an appliance seen from outside.
type Site struct {
	Dir   string
	Bus   *bus.Bus
	API   *api.Client
	Vault *vault.Vault // opened with the key file, past the appliance
}

// Connect waits until the appliance in dir answers, and connects. alive, if set,
// says why there is nothing to wait for any more.
func Connect(ctx context.Context, dir string, alive func() error) (*Site, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("the appliance in %s does not answer", dir))
	defer cancel()
	s := &Site{Dir: dir}
	var last error
	err := rig.Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		if alive != nil {
			if err := alive(); err != nil {
				return false, err
			}
		}
		last = s.try(ctx)
		return last == nil, nil
	})
	if err != nil {
		s.Close()
		if last != nil && alive != nil && alive() == nil {
			err = fmt.Errorf("%w (%v)", err, last)
		}
		return nil, err
	}
	return s, nil
}

func (s *Site) try(ctx context.Context) error {
	if s.Bus == nil {
		if _, err := os.Stat(Context(s.Dir, "admin")); err != nil {
			return err
		}
		b, err := bus.Connect(ctx, bus.Options{Name: "leeward-bench", Context: Context(s.Dir, "admin")})
		if err != nil {
			return err
		}
		s.Bus, s.API = b, api.NewClient(b.Conn)
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := s.API.Status(short)
	if err != nil {
		return err
	}
	if !st.Ready {
		return fmt.Errorf("control is not ready")
	}
	if s.Vault == nil {
		s.Vault, err = OpenVault(ctx, s.Dir)
	}
	return err
}

// Close closes the connection.
func (s *Site) Close() { s.Bus.Close() }

// OpenVault opens the vault of an appliance with nothing but its store and key.
func OpenVault(ctx context.Context, dir string) (*vault.Vault, error) {
	k, err := vault.KeyFromFile(Key(dir))
	if err != nil {
		return nil, err
	}
	st, err := vault.OpenStore("dir://"+Vault(dir), false)
	if err != nil {
		return nil, err
	}
	return vault.Unlock(ctx, st, k)
}

// AwaitPoint waits for a listed point of machine whose cut is after a time, and
// returns the oldest such. Control may be away for a while meanwhile. alive, if set,
// says why there is nothing to wait for any more.
func (s *Site) AwaitPoint(ctx context.Context, machine string, after time.Time, alive func() error) (p api.Point, err error) {
	var last error
	err = rig.Poll(ctx, 10*time.Millisecond, func() (bool, error) {
		if alive != nil {
			if err := alive(); err != nil {
				return false, err
			}
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		all, err := s.API.Points(short, api.Query{Machine: machine, Since: after})
		last = err
		if err != nil {
			return false, nil
		}
		for _, x := range all {
			if x.Time.After(after) {
				p = x
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil && last != nil {
		err = fmt.Errorf("%w (control: %v)", err, last)
	}
	return p, err
}

// Restore writes one disk of a point to a new file; the vault verifies its digest.
func Restore(ctx context.Context, v *vault.Vault, id vault.DiskID, d vault.PointDisk, path string) error {
	rd, err := v.OpenAt(ctx, id, d.At, vault.ReaderOptions{})
	if err != nil {
		return err
	}
	defer rd.Close()
	if rd.Size() != int64(d.Size) || rd.Digest() != d.Digest {
		return fmt.Errorf("disk %s at %v is not what the point promises", id, d.At)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = f.Truncate(rd.Size())
	if err == nil {
		_, err = rd.Restore(ctx, f, vault.RestoreOptions{})
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// RunHere runs an appliance in this process below dir and returns it connected; the
// rig stops it.
func RunHere(ctx context.Context, r *rig.Rig, dir string) (*Site, error) {
	cfg := appliance.Default()
	cfg.Dir, cfg.Listen, cfg.LogFormat = dir, "127.0.0.1:-1", "json"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	logs, err := os.Create(filepath.Join(dir, "appliance.log"))
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	var result error
	go func() {
		defer close(ended)
		defer logs.Close()
		result = appliance.Run(run, cfg, "0.0.0", io.Discard, logs)
	}()
	r.Defer("stop the appliance", func() error {
		cancel()
		<-ended
		return result
	})
	s, err := Connect(ctx, dir, func() error {
		select {
		case <-ended:
			return fmt.Errorf("the appliance ended: %w", result)
		default:
			return nil
		}
	})
	if err != nil {
		return nil, err
	}
	r.Defer("disconnect", func() error { s.Close(); return nil })
	return s, nil
}

// Silent is a logger that drops everything.
func Silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Step is a part of a longer work and how long it took.
type Step struct {
	What string
	Took time.Duration
}

// FirstBlock opens the vault of an appliance's directory, finds a point and reads 4
// KiB of its first disk. steps say where the time went.
func FirstBlock(ctx context.Context, dir, point string, off int64) (b []byte, steps []Step, err error) {
	began := time.Now()
	done := func(what string) {
		now := time.Now()
		steps = append(steps, Step{what, now.Sub(began)})
		began = now
	}
	v, err := OpenVault(ctx, dir)
	if err != nil {
		return nil, steps, err
	}
	done("unlock the vault")
	p, err := v.Point(ctx, point)
	if err != nil {
		return nil, steps, err
	}
	if len(p.Machines) == 0 || len(p.Machines[0].Disks) == 0 {
		return nil, steps, fmt.Errorf("point %s has no disk", point)
	}
	done("find the point")
	m := p.Machines[0]
	rd, err := v.OpenAt(ctx, vault.DiskID{Machine: m.Machine, Disk: m.Disks[0].Disk}, m.Disks[0].At, vault.ReaderOptions{})
	if err != nil {
		return nil, steps, err
	}
	defer rd.Close()
	done("open the disk")
	b = make([]byte, rig.Block)
	_, err = rd.ReadAt(b, off)
	done("read")
	return b, steps, err
}
