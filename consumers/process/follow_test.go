package process

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

// TestScenarios plays testdata/*.txt: each line is a link, what follow says of it,
// and words that must stand in the reason. Links that fit or open move the head.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 3 {
		t.Fatalf("scenarios: %v %v", files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) { play(t, f) })
	}
}

func play(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var head vault.Head
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		link, want, isLink := strings.Cut(line, "->")
		words := strings.Fields(link)
		if len(words) == 0 {
			continue
		}
		if words[0] == "head" {
			head = vault.Head{Position: position(t, words[1]), Hash: label(t, words, "h"), Base: field(t, words, "base")}
			if w := word(words, "open"); w != "" {
				head.Open = &vault.Open{Instance: w, Time: time.Unix(0, 0)}
			}
			continue
		}
		if !isLink {
			t.Fatalf("%s:%d: no verdict", file, n)
		}
		c := change(t, words)
		verdict, why := follow(head, c, wire.Hash(label(t, words, "h")))
		wanted, reason, _ := strings.Cut(strings.TrimSpace(want), " ")
		if verdict.String() != wanted || !strings.Contains(why, reason) {
			t.Errorf("%s:%d: %s: is %s (%s), want %s", file, n, strings.TrimSpace(link), verdict, why, strings.TrimSpace(want))
		}
		if verdict == fits || verdict == opens {
			head = advance(head, c, wire.Hash(label(t, words, "h")))
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

func change(t *testing.T, words []string) *wire.Change {
	if words[0] == "open" {
		least := field(t, words, "min")
		return &wire.Change{Kind: wire.KindOpen, Epoch: position(t, words[1]+"/1").Epoch, Number: 1,
			Open: &wire.Open{Instance: word(words, "h"), MinEpoch: least.Epoch, MinNumber: least.Number}}
	}
	at := position(t, words[0])
	return &wire.Change{Kind: wire.KindBlock, Epoch: at.Epoch, Number: at.Number, Prev: wire.Hash(label(t, words, "prev"))}
}

func position(t *testing.T, s string) (p vault.Position) {
	if _, err := fmt.Sscanf(s, "%d/%d", &p.Epoch, &p.Number); err != nil {
		t.Fatalf("%q is no position: %v", s, err)
	}
	return p
}

func word(words []string, key string) string {
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v
		}
	}
	return ""
}

func field(t *testing.T, words []string, key string) vault.Position {
	if w := word(words, key); w != "" {
		return position(t, w)
	}
	return vault.Position{}
}

func label(_ *testing.T, words []string, key string) (h [32]byte) {
	copy(h[:], word(words, key))
	return h
}

// TestFollowTakesOneChainInOrder delivers the links of several epochs in any order,
// some more than once, until nothing is missing: what fits is the chain, once.
func TestFollowTakesOneChainInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "links")
		var all []*wire.Change
		hash := func(c *wire.Change) wire.Hash { return wire.Hash{byte(c.Epoch), byte(c.Number)} }
		for i := range n {
			c := &wire.Change{Kind: wire.KindBlock, Epoch: 1, Number: uint64(i) + 1}
			if i == 0 {
				c.Kind, c.Open = wire.KindOpen, &wire.Open{}
			} else {
				c.Prev = hash(all[i-1])
			}
			all = append(all, c)
		}
		var head vault.Head
		for step := 0; head.Number < uint64(n); step++ {
			i := rapid.IntRange(0, n-1).Draw(t, "delivered")
			if step > 200 {
				i = int(head.Number)
			}
			c := all[i]
			v, _ := follow(head, c, hash(c))
			want := early
			switch {
			case c.Number <= head.Number:
				want = repeat
			case c.Number == 1:
				want = opens
			case c.Number == head.Number+1:
				want = fits
			}
			if v != want {
				t.Fatalf("link %d at head %d is %s, want %s", c.Number, head.Number, v, want)
			}
			if v == fits || v == opens {
				head = advance(head, c, hash(c))
			}
		}
	})
}

func TestConfigNamesWhatCannotWork(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*Config){
		"batch_bytes": func(c *Config) { c.BatchBytes = 1000 }, "batch_age": func(c *Config) { c.BatchAge = 0 },
		"memory_bytes": func(c *Config) { c.MemoryBytes = c.BatchBytes }, "workers": func(c *Config) { c.Workers = 0 },
	} {
		c := Default()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "process."+field+" ") {
			t.Errorf("%s: %v", field, err)
		}
	}
	c := Default()
	for _, n := range []int{1, 8, 64} {
		if b := c.pullBytes(n); b < 2<<20+64<<10 || b > 16<<20 {
			t.Errorf("pulls %d bytes ahead for %d partitions", b, n)
		}
	}
	if q := c.perDisk(); q < 2*c.BatchBytes || q > c.MemoryBytes/2 {
		t.Errorf("a disk may hold %d bytes", q)
	}
}
