//go:build !linux

package quiesce

import (
	"context"
	"errors"
	"time"

	"github.com/leeward-dr/leeward/agent/disk"
)

// Freezing is Linux only: New always fails here.

var errSystem = errors.New("freezing filesystems needs Linux")

// GuardMain does nothing here.
func GuardMain() int { return 2 }

// Freezer exists on Linux only.
type Freezer struct{}

// New always fails here.
func New(Options) (*Freezer, error) { return nil, errSystem }

// Close does nothing here.
func (*Freezer) Close() error { return nil }

// Sync always fails here.
func (*Freezer) Sync(context.Context, []disk.Mount) error { return errSystem }

// Freeze always fails here.
func (*Freezer) Freeze(context.Context, []disk.Mount) (*Frozen, error) { return nil, errSystem }

// Frozen exists on Linux only.
type Frozen struct{}

// Deadline is never here.
func (*Frozen) Deadline() time.Time { return time.Time{} }

// Skipped is empty here.
func (*Frozen) Skipped() []Skipped { return nil }

// Thaw always fails here.
func (*Frozen) Thaw() (time.Duration, error) { return 0, errSystem }
