package fixup

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

// goldenMBR is a table of two partitions, with the disk's signature at byte 440.
func goldenMBR() []byte {
	b := make([]byte, 1<<20)
	put(b, 440, "c0f78a5b0000")
	put(b, 446, "00202100fd8223010008000000280000")
	put(b, 462, "00822401fda3a8080030000000d00000")
	put(b, 510, "55aa")
	return b
}

func put(b []byte, at int, text string) {
	x, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	copy(b[at:], x)
}

// goldenGPT is a table as UEFI lays it down, whose second entry is not used.
func goldenGPT() []byte {
	b := make([]byte, 1<<20)
	put(b, 450, "ee")
	put(b, 510, "55aa")
	put(b, 512, "4546492050415254000001005c000000")
	put(b, 512+24, "0100000000000000ff07000000000000")
	put(b, 512+72, "02000000000000008000000080000000")
	put(b, 1024, "79d3d6e607f5c244a23c238f2a3df9283bb0c1a1e4a20b4e9c1d00112233445500080000000000")
	put(b, 1024+256, "0fc63daf8483764d8e793d69d8477de4c21ed0b05af1fe4ab6cdfedcba987654")
	sums(b)
	return b
}

func sums(b []byte) {
	binary.LittleEndian.PutUint32(b[512+88:], crc32.ChecksumIEEE(b[1024:1024+128*128]))
	binary.LittleEndian.PutUint32(b[512+16:], 0)
	binary.LittleEndian.PutUint32(b[512+16:], crc32.ChecksumIEEE(b[512:512+92]))
}

func TestPartitionIDs(t *testing.T) {
	gpt := map[int]string{1: "a1c1b03b-a2e4-4e0b-9c1d-001122334455", 3: "b0d01ec2-f15a-4afe-b6cd-fedcba987654"}
	for about, c := range map[string]struct {
		image  []byte
		change func(b []byte)
		want   map[int]string
	}{
		"GPT":                    {goldenGPT(), func([]byte) {}, gpt},
		"MBR":                    {goldenMBR(), func([]byte) {}, map[int]string{1: "5b8af7c0-01", 2: "5b8af7c0-02"}},
		"an MBR without a name":  {goldenMBR(), func(b []byte) { put(b, 440, "00000000") }, nil},
		"no table":               {goldenMBR(), func(b []byte) { b[511] = 0 }, nil},
		"a damaged header":       {goldenGPT(), func(b []byte) { b[512+40] ^= 1 }, nil},
		"a damaged entry":        {goldenGPT(), func(b []byte) { b[1024+20] ^= 1 }, nil},
		"entries of other sizes": {goldenGPT(), func(b []byte) { b[512+84] = 64; sums(b) }, nil},
		"endless entries":        {goldenGPT(), func(b []byte) { b[512+83] = 0xff; sums(b) }, nil},
		"a table that is cut":    {goldenGPT()[:2048], func([]byte) {}, nil},
		"nothing":                {nil, func([]byte) {}, nil},
	} {
		c.change(c.image)
		if got := partitionIDs(bytes.NewReader(c.image)); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", about, got, c.want)
		}
	}
}

// Partitions are called as the tools call them.
func TestPartitionIDsAgainstTools(t *testing.T) {
	targettest.Need(t, "sfdisk", "partx")
	for _, label := range []string{"gpt", "dos"} {
		image := filepath.Join(t.TempDir(), label)
		err := os.WriteFile(image, nil, 0o600)
		if err == nil {
			err = os.Truncate(image, 16<<20)
		}
		if err != nil {
			t.Fatal(err)
		}
		make := exec.CommandContext(t.Context(), "sfdisk", "-q", image)
		make.Stdin = strings.NewReader("label: " + label + "\n,4MiB\n,4MiB\n,\n")
		if out, err := make.CombinedOutput(); err != nil {
			t.Fatalf("sfdisk: %v: %s", err, out)
		}
		out, err := exec.CommandContext(t.Context(), "partx", "-g", "-o", "NR,UUID", image).Output()
		if err != nil {
			t.Fatalf("partx: %v", err)
		}
		want := map[int]string{}
		all := strings.Fields(string(out))
		for i := 0; i+1 < len(all); i += 2 {
			n, err := strconv.Atoi(all[i])
			if err != nil {
				t.Fatalf("partx: %s", out)
			}
			want[n] = all[i+1]
		}
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		got := partitionIDs(f)
		f.Close()
		if len(want) != 3 || !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", label, got, want)
		}
	}
}

// A disk without a file system of its own is known by what else it holds, unless another has
// the same.
func TestKnown(t *testing.T) {
	d := devices{disks: []string{"sda", "sdb", "sdc", "sdd", "sde", "sdf"}, all: []device{
		{disk: 0, kind: ""}, {disk: 0, part: 1, kind: "vfat", uuid: "AB12-CD34", partID: "p-1"}, {disk: 0, part: 2, kind: "lvm", volume: "v-2", partID: "p-2", joined: true},
		{disk: 1, kind: "lvm", volume: "v-b", joined: true},
		{disk: 2, kind: ""}, {disk: 2, part: 1, kind: "raid", partID: "same", joined: true}, {disk: 2, part: 2, kind: "raid", partID: "mine", joined: true},
		{disk: 3, kind: ""}, {disk: 3, part: 1, kind: "raid", partID: "SAME", joined: true},
		{disk: 4, kind: "raid", joined: true},
		{disk: 5, kind: ""}, {disk: 5, part: 1, kind: "vfat", uuid: "ab12-cd34"}, {disk: 5, part: 2, kind: "ext", uuid: "e-5"},
		{disk: -1, kind: "ext", uuid: "root"},
	}}
	for i, want := range []string{"by-id/lvm-pv-uuid-v-2", "by-id/lvm-pv-uuid-v-b", "by-partuuid/mine", "", "", "by-uuid/e-5"} {
		if got := d.known(i); got != want {
			t.Errorf("%s is known by %q, want %q", d.disks[i], got, want)
		}
	}
}

func FuzzPartitionIDs(f *testing.F) {
	f.Add(goldenMBR()[:1024])
	f.Add(goldenGPT()[:1024+128*128])
	f.Fuzz(func(t *testing.T, b []byte) {
		for n, id := range partitionIDs(bytes.NewReader(b)) {
			if n < 1 || n > maxEntries || strings.Trim(id, "0123456789abcdef-") != "" {
				t.Errorf("partition %d is called %q", n, id)
			}
		}
		_ = volumeID(bytes.NewReader(b))
	})
}
