package azure

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/disk"
)

// Limits of Azure, in bytes.
const (
	leastDisk   = 20 << 20           // smaller disks are padded with zeros
	mostUpload  = 35_183_298_347_008 // 32 TiB less a little, without the footer
	mostPages   = 8<<40 - 1<<20      // of a page blob
	mostBootV1  = 2 << 40            // of a disk that a BIOS boots from
	mostBoot    = 4095 << 30         // of a disk to boot from
	mostDisks   = 65                 // the one to boot from, and 64 others
	uploadHours = 72                 // how long a disk may take to be filled
)

// Target is target.Target in Azure.
type Target struct{ cfg Config }

// New returns a target. What is wrong with cfg is for Validate to say.
func New(cfg Config) *Target {
	cfg.fill()
	return &Target{cfg}
}

// Name returns "azure".
func (t *Target) Name() string { return "azure" }

// Validate says why m cannot come up in Azure. It asks there for the sizes of virtual
// machines, and for the subnet.
func (t *Target) Validate(ctx context.Context, m *target.Machine) error {
	_, _, err := t.validate(ctx, m)
	return err
}

func (t *Target) validate(ctx context.Context, m *target.Machine) (*cloud, vmSize, error) {
	wrong := t.possible(m)
	if t.cfg.Fixer != nil {
		wrong = all(wrong, t.cfg.Fixer.CanFit(m))
	}
	if t.cfg.Place.Check() != nil { // then there is nobody to ask
		return nil, vmSize{}, wrong
	}
	c, err := newCloud(&t.cfg, t.cfg.Place)
	if err != nil {
		return nil, vmSize{}, all(wrong, err)
	}
	size, err := c.size(ctx, t.cfg.Place.wants(m))
	wrong = all(wrong, err, c.reachable(ctx, t.cfg.Isolated))
	if err == nil {
		wrong = all(wrong, c.room(ctx, size))
	}
	return c, size, wrong
}

// all joins what is wrong in one line; nil if nothing is.
func all(wrong ...error) error {
	var some several
	for _, err := range wrong {
		if err != nil {
			some = append(some, err)
		}
	}
	switch len(some) {
	case 0:
		return nil
	case 1:
		return some[0]
	}
	return some
}

// several are errors in one line.
type several []error

// Error returns all of them.
func (s several) Error() string {
	var text []string
	for _, err := range s {
		text = append(text, err.Error())
	}
	return strings.Join(text, "; ")
}

// Unwrap returns them.
func (s several) Unwrap() []error { return s }

// possible says all that is wrong without asking anybody.
func (t *Target) possible(m *target.Machine) error {
	p := t.cfg.Place
	wrong := all(m.Check(), p.Check())
	if !t.cfg.Isolated {
		wrong = all(wrong, p.checkOpen())
	}
	if len(m.Disks) > mostDisks {
		wrong = all(wrong, fmt.Errorf("machine %s has %d disks, Azure attaches at most %d", m.Name, len(m.Disks), mostDisks))
	}
	for i, d := range m.Disks {
		if _, ok := d.(target.Restorer); !ok {
			wrong = all(wrong, fmt.Errorf("disk %s cannot be restored as a whole", d.Name()))
		}
		most, what := int64(mostUpload), "a managed disk"
		if p.Via == Import {
			most, what = mostPages, "a page blob: use via upload"
		}
		if i == 0 && m.Firmware == "bios" {
			most, what = min(most, mostBootV1), "a disk that a BIOS boots from"
		} else if i == 0 {
			most, what = min(most, mostBoot), "a disk to boot from"
		}
		if vhdSize(d.Size()) > most {
			wrong = all(wrong, fmt.Errorf("disk %s has %d bytes, at most %d are possible for %s", d.Name(), d.Size(), most, what))
		}
	}
	return wrong
}

// vhdSize is how many bytes a disk has in Azure, without the footer: whole MiB, and 20 of
// them at least.
func vhdSize(size int64) int64 { return disk.VHDAlign(max(size, leastDisk)) }

// Start begins to bring m up, or goes on with what was begun in dir. It returns at once;
// Probe waits until the machine is up, which takes as long as its disks take to be sent.
func (t *Target) Start(ctx context.Context, m *target.Machine, dir string) (target.Running, error) {
	if err := all(t.possible(m), ctx.Err()); err != nil {
		return nil, err
	}
	b, err := openBook(dir)
	var c *cloud
	switch {
	case errors.Is(err, errNoRun):
		if b, c, err = t.begin(ctx, m, dir); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if err := b.fits(m); err != nil {
			return nil, err
		}
		if c, err = newCloud(&t.cfg, b.Place); err != nil {
			return nil, err
		}
	}
	if b.Removing {
		return nil, fmt.Errorf("run %s in Azure is being removed: clean it up", b.Run)
	}
	r := newRun(&t.cfg, c, b)
	r.disks, r.point, r.cut = slices.Clone(m.Disks), m.Point, m.Time
	// The machine outlives the call that starts it: only Stop ends it.
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	go func() {
		defer close(r.worked)
		r.err = r.work(wctx)
	}()
	return r, nil
}

// begin makes sure that all is possible and writes what will be done.
func (t *Target) begin(ctx context.Context, m *target.Machine, dir string) (*book, *cloud, error) {
	c, size, err := t.validate(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	var id [4]byte
	rand.Read(id[:])
	b := newBook(dir, hex.EncodeToString(id[:]), m, t.cfg.Place, t.cfg.Isolated, size.name)
	b.Fix = t.cfg.Fixer != nil
	if t.cfg.Place.Keeps() {
		b.Owner = t.cfg.Owner
	}
	return b, c, b.change(func(*record) {})
}

// Adopt takes over the run that an earlier process began in dir. It wraps fs.ErrNotExist
// if there is none. cfg.Place and cfg.Isolated do not matter: the run has its own.
func Adopt(cfg Config, dir string) (*Run, error) {
	b, err := openBook(dir)
	if err != nil {
		return nil, err
	}
	cfg.fill()
	c, err := newCloud(&cfg, b.Place)
	if err != nil {
		return nil, err
	}
	r := newRun(&cfg, c, b)
	if r.Unfinished() {
		r.err = fmt.Errorf("run %s in Azure was not finished: start it again", b.Run)
	}
	close(r.worked)
	return r, nil
}
