package place

import (
	"fmt"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
)

// Objects as the vault writes them: 4 MiB of noise. Azurite says nothing about Azure;
// it shows that nothing of ours is in the way.
func BenchmarkStores(b *testing.B) {
	const size = 4 << 20
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	for _, name := range []string{"dir", "shard 4+2", "azurite"} {
		b.Run(name, func(b *testing.B) {
			url := "dir://" + b.TempDir()
			switch name {
			case "shard 4+2":
				url = set(b.TempDir(), "4+2", 6)
			case "azurite":
				a := azuritetest.Start(b)
				b.Setenv("AZURE_STORAGE_CONNECTION_STRING", a.ConnectionString())
				url = a.URL("bench")
			}
			s, err := Open(url, true)
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			b.Run("write", func(b *testing.B) {
				b.SetBytes(size)
				for b.Loop() {
					n++
					if err := s.Put(b.Context(), fmt.Sprintf("o/%d", n), data); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("read", func(b *testing.B) {
				b.SetBytes(size)
				i := 0
				for b.Loop() {
					i = i%n + 1
					if _, err := s.Get(b.Context(), fmt.Sprintf("o/%d", i), 0, -1); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("read 128 KiB", func(b *testing.B) {
				b.SetBytes(128 << 10)
				for b.Loop() {
					if _, err := s.Get(b.Context(), "o/1", 1<<20+77, 128<<10); err != nil {
						b.Fatal(err)
					}
				}
			})
			if err := s.List(b.Context(), "", func(store.Info) error { return nil }); err != nil {
				b.Fatal(err)
			}
		})
	}
}
