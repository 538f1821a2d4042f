package peers

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

type qemu struct{ Place }

func (qemu) Name() string    { return "qemu-img" }
func (qemu) Encrypted() bool { return false }
func (qemu) Note() string {
	return "NOT encrypted (qcow2 cannot compress and encrypt), zstd, 64 KiB clusters, -m 8 -W; day 2 is an overlay that qemu-img finds by comparing"
}

func (qemu) Missing() string {
	if m, ok := rig.Have("qemu-img", "qemu-io"); !ok {
		return m + " is not on PATH"
	}
	return ""
}

func (t qemu) image(day int) string { return filepath.Join(t.repo(), fmt.Sprintf("day%d.qcow2", day)) }

func (t qemu) Init(context.Context) error { return t.clean() }

func (t qemu) Backup(ctx context.Context, day int) (rig.Usage, error) {
	pack := []string{"qemu-img", "convert", "-O", "qcow2", "-c", "-o", "compression_type=zstd", "-m", "8", "-W"}
	if day == 1 {
		return t.measure(ctx, "qemu-img convert", nil, append(pack, "-f", "raw", t.Source, t.image(1))...)
	}
	// An overlay that names the new image as its backing file is rebased onto the day before:
	// qemu-img reads and compares both and keeps what differs. Then it is packed.
	tmp := filepath.Join(t.Dir, "overlay.qcow2")
	var all rig.Usage
	for _, argv := range [][]string{
		{"qemu-img", "create", "-q", "-f", "qcow2", "-b", t.Source, "-F", "raw", tmp},
		{"qemu-img", "rebase", "-f", "qcow2", "-b", t.image(day - 1), "-F", "qcow2", tmp},
		append(pack, "-f", "qcow2", "-B", t.image(day-1), "-F", "qcow2", tmp, t.image(day)),
	} {
		u, err := t.measure(ctx, strings.Join(argv[:2], " "), nil, argv...)
		if err != nil {
			return all, err
		}
		all.Wall, all.CPU, all.RSS = all.Wall+u.Wall, all.CPU+u.CPU, max(all.RSS, u.RSS)
	}
	return all, os.Remove(tmp)
}

func (t qemu) newest() string {
	day := 1
	for {
		if _, err := os.Stat(t.image(day + 1)); err != nil {
			return t.image(day)
		}
		day++
	}
}

func (t qemu) Restore(ctx context.Context) (rig.Usage, string, error) {
	if err := os.MkdirAll(t.out(), 0o755); err != nil {
		return rig.Usage{}, "", err
	}
	out := filepath.Join(t.out(), "disk.img")
	u, err := t.measure(ctx, "qemu-img convert", nil, "qemu-img", "convert", "-m", "8", "-W", "-f", "qcow2", "-O", "raw", t.newest(), out)
	return u, out, err
}

func (t qemu) First(ctx context.Context, off int64) ([]byte, int64, time.Duration, error) {
	began := time.Now()
	out, err := rig.Run(ctx, "qemu-io", "-r", "-f", "qcow2", "-c", fmt.Sprintf("read -v %d %d", off, rig.Block), t.newest())
	took := time.Since(began)
	if err != nil {
		return nil, 0, took, err
	}
	b, err := dump(out)
	return b, off, took, err
}

// dump reads the bytes out of qemu-io's hex dump: "00000000:  de ad be ef …  text".
func dump(s string) (b []byte, err error) {
	for line := range strings.Lines(s) {
		_, rest, ok := strings.Cut(line, ":  ")
		if !ok || len(rest) < 47 {
			continue
		}
		p, err := hex.DecodeString(strings.ReplaceAll(rest[:47], " ", ""))
		if err != nil {
			continue
		}
		b = append(b, p...)
	}
	if len(b) != rig.Block {
		return nil, fmt.Errorf("qemu-io showed %d bytes, want %d", len(b), rig.Block)
	}
	return b, nil
}
