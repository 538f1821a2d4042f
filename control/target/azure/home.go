package azure

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/leeward-dr/leeward/control/target"
)

var _ target.Homing = (*Run)(nil)

// insist does something that may be refused for a while, because something else is being
// done to the same machine or disk.
func (r *Run) insist(ctx context.Context, do func(context.Context) error) (err error) {
	for range removals {
		if err = do(ctx); err == nil || missing(err) || refused(err) || !pause(ctx, r.cfg.stay) {
			break
		}
	}
	return err
}

// Off implements target.Homing. The machine is deallocated: only then can its disks be read,
// and it costs nothing but them.
func (r *Run) Off(ctx context.Context) error {
	return r.turn(ctx, "deallocated", func(ctx context.Context) error {
		_, err := await(ctx, r.c, forgetful{}, "deallocate virtual machine "+r.b.base(), func(ctx context.Context, token string) (*runtime.Poller[armcompute.VirtualMachinesClientDeallocateResponse], error) {
			return r.c.vms.BeginDeallocate(ctx, r.b.Place.ResourceGroup, r.b.base(), &armcompute.VirtualMachinesClientBeginDeallocateOptions{ResumeToken: token})
		})
		return err
	})
}

// On implements target.Homing.
func (r *Run) On(ctx context.Context) error {
	return r.turn(ctx, "running", func(ctx context.Context) error {
		if err := r.shut(ctx); err != nil { // an earlier process may have left them open
			return err
		}
		_, err := await(ctx, r.c, forgetful{}, "start virtual machine "+r.b.base(), func(ctx context.Context, token string) (*runtime.Poller[armcompute.VirtualMachinesClientStartResponse], error) {
			return r.c.vms.BeginStart(ctx, r.b.Place.ResourceGroup, r.b.base(), &armcompute.VirtualMachinesClientBeginStartOptions{ResumeToken: token})
		})
		return err
	})
}

// turn asks for something until the machine stands as wanted.
func (r *Run) turn(ctx context.Context, want power, do func(context.Context) error) error {
	if r.Unfinished() || r.b.now().Removing {
		return fmt.Errorf("azure: run %s is not up, or is being removed", r.b.Run)
	}
	return r.insist(ctx, func(ctx context.Context) error {
		state, err := r.power(ctx)
		if err != nil || state == want {
			return err
		}
		if state == gone {
			return fmt.Errorf("azure: virtual machine %s is gone", r.b.base())
		}
		if err := do(ctx); err != nil {
			return err
		}
		if state, err = r.power(ctx); err == nil && state != want {
			err = fmt.Errorf("azure: virtual machine %s is %s, not %s", r.b.base(), state, want)
		}
		return err
	})
}

// source is a managed disk that is open for reading.
type source struct {
	ctx  context.Context
	p    *pages
	name string
	size int64
}

// Name implements target.Source.
func (s *source) Name() string { return s.name }

// Size implements target.Source.
func (s *source) Size() int64 { return s.size }

// Extents implements target.Source: whole blocks around the pages that Azure lists.
func (s *source) Extents(yield func(off, length int64) bool) {
	var all spans
	for _, x := range s.p.held {
		off := x.off / target.BlockSize * target.BlockSize
		all.add(off, min((x.end+target.BlockSize-1)/target.BlockSize*target.BlockSize, s.size))
	}
	for _, x := range all.list() {
		if !yield(x.off, x.end-x.off) {
			return
		}
	}
}

// ReadAt implements io.ReaderAt, for parts of the disk.
func (s *source) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > s.size {
		return 0, fmt.Errorf("azure: %d bytes at %d are not of disk %s", len(b), off, s.name)
	}
	if err := s.p.readAt(s.ctx, b, off); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Disks implements target.Homing.
func (r *Run) Disks(ctx context.Context) (all []target.Source, shut func(context.Context) error, err error) {
	if state, err := r.power(ctx); err != nil || state != "deallocated" {
		return nil, nil, errors.Join(err, fmt.Errorf("azure: virtual machine %s is %s: its disks can be read when it is deallocated", r.b.base(), state))
	}
	for i := range r.b.now().Disks {
		d, err := r.openSource(ctx, i)
		if err != nil {
			return nil, nil, errors.Join(err, r.shut(context.WithoutCancel(ctx)))
		}
		all = append(all, d)
	}
	return all, r.shut, nil
}

// openSource opens a disk for reading. The signature is kept nowhere: another process asks
// for another one.
func (r *Run) openSource(ctx context.Context, i int) (*source, error) {
	name := r.b.disk(i)
	var url string
	err := r.insist(ctx, func(ctx context.Context) error {
		if err := r.shutDisk(ctx, i); err != nil {
			return err
		}
		got, err := await(ctx, r.c, forgetful{}, "open disk "+name+" for reading", func(ctx context.Context, token string) (*runtime.Poller[armcompute.DisksClientGrantAccessResponse], error) {
			return r.c.disks.BeginGrantAccess(ctx, r.b.Place.ResourceGroup, name,
				armcompute.GrantAccessData{Access: ptr(armcompute.AccessLevelRead), DurationInSeconds: ptr(int32(uploadHours * 3600))},
				&armcompute.DisksClientBeginGrantAccessOptions{ResumeToken: token})
		})
		if err == nil && (got.AccessSAS == nil || !strings.HasPrefix(*got.AccessSAS, "http")) {
			err = fmt.Errorf("azure: disk %s was opened, and no address was given", name)
		}
		if err == nil {
			url = *got.AccessSAS
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	size := r.b.Disks[i].Size
	p, err := openPages(r.cfg, url, vhdSize(size)+pageSize)
	if err != nil {
		return nil, err
	}
	if err := p.look(ctx); err != nil {
		return nil, fmt.Errorf("azure: what disk %s holds: %w", name, brief(err))
	}
	if !p.heldKnown {
		p.held = []span{{0, size}}
	}
	return &source{ctx: ctx, p: p, name: r.b.Disks[i].Name, size: size}, nil
}

// shut closes all disks: no signature for one is good any more.
func (r *Run) shut(ctx context.Context) (err error) {
	for i := range r.b.now().Disks {
		err = errors.Join(err, r.insist(ctx, func(ctx context.Context) error { return r.shutDisk(ctx, i) }))
	}
	return err
}

func (r *Run) shutDisk(ctx context.Context, i int) error {
	state, err := r.c.state(ctx, r.b.disk(i))
	switch {
	case err != nil:
		return err
	case state == "":
		return fmt.Errorf("azure: disk %s is gone", r.b.disk(i))
	case state == armcompute.DiskStateActiveSAS || state == armcompute.DiskStateActiveSASFrozen:
		return (remover{r.c, forgetful{}}).revoke(ctx, r.b.disk(i))
	}
	return nil
}
