package failover

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/keeper"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Keeper says how machines are kept by processes of their own, so that they outlive
// this one.
type Keeper struct {
	// Command is a program that calls KeepMachine, with arguments; the machine's
	// directory is added. Empty: machines run in this process and end with it.
	Command []string
	Vault   string // URL of the store
	KeyFile string // of the vault; the keeper reads it itself, it is told no secret
	Bus     string // file with the context (see bus.Options) for machines that are re-protected
	Server  string // of the bus, if it is another than the context's
}

// keptSpec is what a keeper is told.
type keptSpec struct {
	Vault   string     `json:"vault"`
	KeyFile string     `json:"key_file"`
	Request Request    `json:"request"`
	Machine keptBody   `json:"machine"`
	Disks   []keptDisk `json:"disks"`
}

// keptBody is a target.Machine without its disks.
type keptBody struct {
	Name     string `json:"name"`
	CPUs     int    `json:"cpus"`
	Memory   int64  `json:"memory"`
	Firmware string `json:"firmware"`
}

// keptDisk is a disk at a position, and what the point promises of it.
type keptDisk struct {
	Machine string `json:"machine"`
	Disk    string `json:"disk"`
	Epoch   uint64 `json:"epoch"`
	Number  uint64 `json:"number"`
	Size    uint64 `json:"size"`
	Digest  string `json:"digest"`
}

// kept is a target whose machines are kept by processes of their own.
type kept struct {
	target.Target
	k Keeper
	r Request
}

// Keep returns targets like those of make, but with machines of QEMU in keepers.
func (k Keeper) Keep(make func(Request, target.Progress) (target.Target, error)) func(Request, target.Progress) (target.Target, error) {
	if len(k.Command) == 0 {
		return make
	}
	return func(r Request, p target.Progress) (target.Target, error) {
		t, err := make(r, p)
		if err == nil && t.Name() == QEMU {
			t = kept{t, k, r}
		}
		return t, err
	}
}

// Adopt takes over a machine that an earlier process had started; see Config.
func (k Keeper) Adopt(dir string) (target.Running, error) { return keeper.Adopt(dir) }

// Rehearse implements target.Rehearser: what is thrown away needs no keeper.
func (t kept) Rehearse(ctx context.Context, m *target.Machine, dir string) ([]string, error) {
	if r, ok := t.Target.(target.Rehearser); ok {
		return r.Rehearse(ctx, m, dir)
	}
	return nil, nil
}

// Start implements target.Target.
func (t kept) Start(ctx context.Context, m *target.Machine, dir string) (target.Running, error) {
	spec := keptSpec{Vault: t.k.Vault, KeyFile: t.k.KeyFile, Request: t.r, Machine: keptBody{m.Name, m.CPUs, m.Memory, m.Firmware}}
	for _, d := range m.Disks {
		own, ok := d.(Disk)
		if !ok {
			return nil, fmt.Errorf("disk %s is not one of a vault", d.Name())
		}
		spec.Disks = append(spec.Disks, keptDisk{
			Machine: own.id.Machine, Disk: own.id.Disk, Epoch: own.at.Epoch, Number: own.at.Number,
			Size: uint64(own.Size()), Digest: hex.EncodeToString(own.promise[:]),
		})
	}
	running, err := keeper.Start(ctx, append(t.k.Command[:len(t.k.Command):len(t.k.Command)], dir), dir, spec)
	if err != nil {
		return nil, err
	}
	return running, nil
}

// KeepMachine is what the process does that Keeper.Command starts: it keeps the machine
// that in tells of in dir until it is asked to stop or ctx ends.
func KeepMachine(ctx context.Context, dir string, in io.Reader, log *slog.Logger) error {
	return keeper.Keep(ctx, dir, in, func(ctx context.Context, b json.RawMessage) (target.Target, *target.Machine, func(), error) {
		var s keptSpec
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, nil, nil, fmt.Errorf("what to bring up cannot be understood: %w", err)
		}
		return s.open(ctx, log)
	}, log)
}

func (s *keptSpec) open(ctx context.Context, log *slog.Logger) (_ target.Target, _ *target.Machine, done func(), err error) {
	t, err := Targets(log, Azure{})(s.Request, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	key, err := vault.KeyFromFile(s.KeyFile)
	if err != nil {
		return nil, nil, nil, err
	}
	st, err := vault.OpenStore(s.Vault, false)
	if err != nil {
		return nil, nil, nil, err
	}
	v, err := vault.Unlock(ctx, st, key)
	if err != nil {
		return nil, nil, nil, err
	}
	m := &target.Machine{Name: s.Machine.Name, CPUs: s.Machine.CPUs, Memory: s.Machine.Memory, Firmware: s.Machine.Firmware}
	var all disks
	defer func() {
		if err != nil {
			all.Close()
		}
	}()
	for _, k := range s.Disks {
		var digest vault.Digest
		if n, err := hex.Decode(digest[:], []byte(k.Digest)); err != nil || n != len(digest) {
			return nil, nil, nil, fmt.Errorf("disk %s has no usable digest: %w", k.Disk, errors.Join(err, io.ErrUnexpectedEOF))
		}
		d, err := OpenDisk(ctx, v, vault.DiskID{Machine: k.Machine, Disk: k.Disk},
			&vault.PointDisk{Disk: k.Disk, At: vault.Position{Epoch: k.Epoch, Number: k.Number}, Size: k.Size, Digest: digest})
		if err != nil {
			return nil, nil, nil, err
		}
		all = append(all, d)
		m.Disks = append(m.Disks, d)
	}
	return leading{Target: t, vault: v, all: all, log: log, connect: bus.Connect}, m, all.Close, nil
}
