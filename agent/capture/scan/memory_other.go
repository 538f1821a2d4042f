//go:build !linux

package scan

import "github.com/leeward-dr/leeward/agent/disk"

// reserve takes memory, whatever dir says.
func reserve(n int, _ string) ([]byte, error) { return make([]byte, n), nil }

func forget([]byte) {}

func release([]byte) error { return nil }

func room(n int) (mem []byte, giveBack func()) { return disk.AlignedBuffer(n), func() {} }
