package seal

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// The vectors pin what doc.go says: a change that moves one makes old vaults
// unreadable.
func TestVectors(t *testing.T) {
	place := NewPlace("leeward segment 1", []byte("vault"), []byte("m"), nil)
	k := Key(counting(32))
	box := k.NewBox(counting(32), place)
	for _, v := range []struct {
		name string
		got  []byte
		want string
	}{
		{"place", place, "116c656577617264207365676d656e742031057661756c74016d00"},
		{"derive", sliceOf(k.Derive(counting(32), place)), "10641cc60a88bf1913a9816ae9df30c2c17a02e55a484fb2145be4a2cb519bf1"},
		{"argon", sliceOf(Argon{Time: 1, Memory: 64, Threads: 1}.Stretch([]byte("correct horse"), counting(32))), "1278242c9eeb1909d026c3d0dfe3fce6142314a4f51caf2273faa9e51d5be22d"},
		{"key file", []byte(k.Text()), "4c574b4559312d4141415145415945415544414f43414a424946515944494f423449424345515443514b524d46595944454e4257484135445950512d45494436494d484d"},
		{"frame", box.SealTail([]byte("headhello"), 4, Frame, 7, nil), "686561645c2369ee0fa7b2f983442a110e1a46ab1a339d64eb"},
		{"trailer", box.SealTail([]byte("headhello"), 4, Trailer, 0, []byte("foot")), "686561649162a874d6ecc69a768d75d55a72ceca8dc1afe209"},
	} {
		if got := fmt.Sprintf("%x", v.got); got != v.want {
			t.Errorf("%s:\n got %s\nwant %s", v.name, got, v.want)
		}
	}
}

func sliceOf(k Key) []byte { return k[:] }

func TestBoxOpensOnlyWhatItSealed(t *testing.T) {
	place := NewPlace("w", []byte("a"))
	k := NewKey()
	box := k.NewBox([]byte("salt"), place)
	sealed := box.SealTail([]byte("hello"), 0, Frame, 1, []byte("clear"))
	open := func(b *Box, s []byte, kind Kind, n uint64, clear string) error {
		got, err := b.Open(bytes.Clone(s), kind, n, []byte(clear))
		if err == nil && string(got) != "hello" {
			t.Fatalf("opened to %q", got)
		}
		return err
	}
	if err := open(box, sealed, Frame, 1, "clear"); err != nil {
		t.Fatal(err)
	}
	wrong := map[string]error{
		"kind":    open(box, sealed, Index, 1, "clear"),
		"ordinal": open(box, sealed, Frame, 2, "clear"),
		"clear":   open(box, sealed, Frame, 1, "cleaR"),
		"short":   open(box, sealed[:10], Frame, 1, "clear"),
		"empty":   open(box, nil, Frame, 1, "clear"),
		"salt":    open(k.NewBox([]byte("tlas"), place), sealed, Frame, 1, "clear"),
		"place":   open(k.NewBox([]byte("salt"), NewPlace("w", []byte("b"))), sealed, Frame, 1, "clear"),
		"key":     open(NewKey().NewBox([]byte("salt"), place), sealed, Frame, 1, "clear"),
	}
	for bit := range len(sealed) * 8 {
		b := bytes.Clone(sealed)
		b[bit/8] ^= 1 << (bit % 8)
		wrong[fmt.Sprint("bit ", bit)] = open(box, b, Frame, 1, "clear")
	}
	for what, err := range wrong {
		if !errors.Is(err, ErrOpen) {
			t.Errorf("wrong %s: %v", what, err)
		}
	}
}

func TestWrap(t *testing.T) {
	kek, secret, place := NewKey(), NewKey(), NewPlace("w")
	w := kek.Wrap(secret, place)
	if got, err := kek.Unwrap(w, place); err != nil || got != secret {
		t.Fatalf("unwrap: %v", err)
	}
	if kek.Wrap(secret, place) == w {
		t.Fatal("wrapping twice gives the same bytes")
	}
	if _, err := kek.Unwrap(w, NewPlace("x")); !errors.Is(err, ErrOpen) {
		t.Fatalf("elsewhere: %v", err)
	}
	w[30] ^= 1
	if _, err := kek.Unwrap(w, place); !errors.Is(err, ErrOpen) {
		t.Fatalf("damaged: %v", err)
	}
}

func TestPlacesDiffer(t *testing.T) {
	a := NewPlace("w", []byte("ab"), []byte("c"))
	b := NewPlace("w", []byte("a"), []byte("bc"))
	if bytes.Equal(a, b) {
		t.Fatal("fields run into each other")
	}
}

func TestKeysStayOutOfLogs(t *testing.T) {
	k := Key{1, 2, 3}
	for _, format := range []string{"%v", "%s", "%+v", "%#v"} {
		if s := fmt.Sprintf(format, k); s != "secret" {
			t.Errorf("%s prints %s", format, s)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	box := NewKey().NewBox(nil, NewPlace("w"))
	buf := make([]byte, 256<<10, 256<<10+Overhead)
	b.SetBytes(int64(len(buf)))
	for i := 0; b.Loop(); i++ {
		box.SealTail(buf, 0, Frame, uint64(i), nil)
	}
}

// A key's text opens as that key, and one with any letter wrong as nothing, not even as
// a passphrase.
func TestText(t *testing.T) {
	k := Key(counting(32))
	text := k.Text()
	if got, ok, err := ParseText(text); got != k || !ok || err != nil {
		t.Fatalf("%v %v %v", got == k, ok, err)
	}
	for i := range text {
		for _, c := range []byte("ABZ237-10aé ") {
			b := []byte(text)
			if b[i] == c {
				continue
			}
			b[i] = c
			if _, ok, err := ParseText(string(b)); i < len(textPrefix) && ok || i >= len(textPrefix) && !errors.Is(err, ErrText) {
				t.Fatalf("letter %d as %q: %v, %v", i, c, ok, err)
			}
		}
		if _, _, err := ParseText(text[:i]); i >= len(textPrefix) && err == nil {
			t.Fatalf("the first %d letters are a key", i)
		}
	}
	for _, s := range []string{"", "a passphrase", "LWKEY", "lwkey1-" + text[len(textPrefix):]} {
		if _, ok, err := ParseText(s); ok || err != nil {
			t.Errorf("%q: %v, %v", s, ok, err)
		}
	}
}

func FuzzParseText(f *testing.F) {
	f.Add(Key(counting(32)).Text())
	f.Add("LWKEY1-")
	f.Fuzz(func(t *testing.T, s string) {
		if k, ok, err := ParseText(s); ok && err == nil && k.Text() != s {
			t.Fatalf("%q was read as a key", s)
		}
	})
}
