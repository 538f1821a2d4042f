//go:build !linux

package trace

import (
	"context"
	"errors"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/disk"
)

// Source exists on Linux only: New always fails here.
type Source struct{}

var _ capture.Source = (*Source)(nil)

// Probe says that this system cannot follow writes.
func Probe(*disk.Disk) error { return unsupported("this driver needs Linux") }

// New always fails here.
func New(*disk.Disk, Options) (*Source, error) { return nil, Probe(nil) }

// Name implements capture.Source.
func (*Source) Name() string { return "trace" }

// Guarantee implements capture.Source.
func (*Source) Guarantee() string { return "nothing" }

// Start implements capture.Source.
func (*Source) Start(context.Context) error { return Probe(nil) }

// Take implements capture.Source.
func (*Source) Take(context.Context) (*capture.Set, error) { return nil, Probe(nil) }

// Audit implements capture.Source.
func (*Source) Audit(context.Context) error { return Probe(nil) }

// Cheap implements capture.Source.
func (*Source) Cheap() bool { return true }

// Close implements capture.Source.
func (*Source) Close() error { return nil }

// Stats tells what the source did so far.
func (*Source) Stats() Stats { return Stats{} }

// ErrInUse means that another process follows the disk with the same kept record.
var ErrInUse = errors.New("another process works on this kept record")

// Forget has nothing to remove here.
func Forget(string, string, bool) ([]string, error) { return nil, nil }
