package disk

import (
	"os"
	"reflect"
	"testing"
)

const sampleMounts = `22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro
30 22 0:26 / /with\040space\011and\134 rw master:1 propagate_from:2 - tmpfs  rw,size=4k
31 22 0:40 /sub/vol /srv ro - btrfs /dev/sdb1 ro,subvol=/sub/vol
`

func TestParseMountinfo(t *testing.T) {
	got, err := parseMountinfo([]byte(sampleMounts))
	if err != nil {
		t.Fatal(err)
	}
	want := []mountLine{
		{22, 8, 2, "/", "/", "ext4", "/dev/sda2", "rw,errors=remount-ro"},
		{30, 0, 26, "/", "/with space\tand\\", "tmpfs", "", "rw,size=4k"},
		{31, 0, 40, "/sub/vol", "/srv", "btrfs", "/dev/sdb1", "ro,subvol=/sub/vol"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseMountinfoErrors(t *testing.T) {
	for _, bad := range []string{
		"garbage", "1 2 3:4 / / rw ext4 x y", "x 2 3:4 / / rw - ext4 x y",
		"1 2 34 / / rw - ext4 x y", "1 2 3:4 / / - ext4 x y", "1 2 3:4 / / rw - ext4",
		"1 2 99999999999:4 / / rw - ext4 x y",
	} {
		if _, err := parseMountinfo([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`plain`: `plain`, `a\040b`: `a b`, `\134040`: `\040`, `end\04`: `end\04`, `\999`: `\999`, `\`: `\`, `\377`: "\xff",
	} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestParseSwaps(t *testing.T) {
	got := parseSwaps([]byte("Filename\tType\tSize\tUsed\tPriority\n/dev/sda3 partition 1 0 -2\n/swap\\040file\\040(x) file 1 0 -3\n\n"))
	want := []Swap{{"/dev/sda3", false}, {"/swap file (x)", true}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add([]byte(sampleMounts))
	if own, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		f.Add(own)
	}
	f.Add([]byte("1 2 3:4 / / rw -  - ext4 x y"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines, err := parseMountinfo(text)
		if err != nil {
			return
		}
		for _, l := range lines {
			if len(l.path) > len(text) || len(l.source) > len(text) {
				t.Fatalf("longer than the input: %+v", l)
			}
		}
		parseSwaps(text)
	})
}
