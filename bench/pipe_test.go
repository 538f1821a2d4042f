package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
)

// BenchmarkPipe copies an incompressible disk of 256 MiB from an agent to the vault
// of an appliance, both in this process, so that one profile shows the whole way:
//
//	go test ./bench -run '^$' -bench Pipe -benchtime 3x -cpuprofile cpu.prof
func BenchmarkPipe(b *testing.B) {
	const size = 256 << 20
	image := filepath.Join(b.TempDir(), "noise.img")
	if err := noise(image, size); err != nil {
		b.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		r, err := rig.New(b.TempDir(), product.Silent())
		if err != nil {
			b.Fatal(err)
		}
		site, err := product.RunHere(b.Context(), r, filepath.Join(r.Dir, "site"))
		if err != nil {
			b.Fatal(errors.Join(err, r.Close()))
		}
		b.StartTimer()
		err = copyOnce(b.Context(), site, image, "scan", self, filepath.Join(r.Dir, "agent"))
		b.StopTimer()
		if err := errors.Join(err, r.Close()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
