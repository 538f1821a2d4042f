package capturetest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/capturetest"
	"github.com/leeward-dr/leeward/agent/disk"
)

func TestFakeConforms(t *testing.T) {
	capturetest.Run(t, func(*testing.T) *capturetest.Env {
		f := capturetest.NewFake(500 * capture.BlockSize)
		write := func(start uint64, b []byte) error {
			_, err := f.WriteAt(b, int64(start*capture.BlockSize))
			return err
		}
		return &capturetest.Env{
			Source: f, Blocks: f.Blocks(), Read: f.ReadBlocks, Write: write, Next: func() capture.Source { return f },
			Lies: []capturetest.Lie{
				{Name: "dropped events", Tell: func() error { f.Lose(); return nil }, Want: capture.ErrLost},
				{Name: "a counter that disagrees", Tell: func() error {
					f.Blind(true)
					defer f.Blind(false)
					return write(4, make([]byte, capture.BlockSize))
				}, Want: capture.ErrLost},
				{Name: "another disk", Tell: func() error { f.Replace(); return nil }, Want: disk.ErrReplaced, Word: "not the disk"},
			},
		}
	})
}

func TestFakeLosses(t *testing.T) {
	ctx := context.Background()
	f := capturetest.NewFake(10*capture.BlockSize + 1)
	if f.Blocks() != 11 {
		t.Fatalf("%d blocks", f.Blocks())
	}
	if err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	f.Lose()
	if _, err := f.Take(ctx); !errors.Is(err, capture.ErrLost) {
		t.Fatalf("Take after a loss: %v", err)
	}
	f.Blind(true)
	if _, err := f.WriteAt([]byte("x"), 5); err != nil {
		t.Fatal(err)
	}
	if s, err := f.Take(ctx); err != nil || s.Len() != 0 {
		t.Fatalf("a blind source saw %v, %v", s, err)
	}
	if err := f.Audit(ctx); !errors.Is(err, capture.ErrLost) {
		t.Fatalf("Audit after a blind write: %v", err)
	}
	f.Blind(false)
	if err := f.Audit(ctx); err != nil {
		t.Fatalf("the loss was reported twice: %v", err)
	}
	broken := errors.New("broken")
	f.FailTakes(broken)
	if _, err := f.Take(ctx); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if _, err := f.WriteAt([]byte("xy"), 10*capture.BlockSize); err == nil {
		t.Fatal("a write behind the end was accepted")
	}
}
