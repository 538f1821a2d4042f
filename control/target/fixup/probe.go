package fixup

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// signature is what a file system, or what is not one, begins with.
type signature struct {
	kind   string
	at     int64
	magic  string
	uuid   int64 // where its UUID lies, 0 if it has none that matters
	label  int64
	length int // of the label
}

// In this order: what encrypts or joins disks first, for what was there before it may shine
// through.
var signatures = []signature{
	{kind: "luks", at: 0, magic: "LUKS\xba\xbe"},
	{kind: "lvm", at: 536, magic: "LVM2 001"},
	{kind: "lvm", at: 24, magic: "LVM2 001"},
	{kind: "raid", at: 4096, magic: "\xfc\x4e\x2b\xa9"},
	{kind: "raid", at: 0, magic: "\xfc\x4e\x2b\xa9"},
	{kind: "bcache", at: 4096 + 24, magic: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{kind: "zfs", at: 131072, magic: "\x0c\xb1\xba\x00"},
	{kind: "xfs", at: 0, magic: "XFSB", uuid: 32, label: 108, length: 12},
	{kind: "ext", at: 1080, magic: "\x53\xef", uuid: 1128, label: 1144, length: 16},
	{kind: "btrfs", at: 65600, magic: "_BHRfS_M", uuid: 65568, label: 65835, length: 256},
	{kind: "swap", at: 4086, magic: "SWAPSPACE2", uuid: 1036, label: 1052, length: 16},
	{kind: "vfat", at: 82, magic: "FAT32   ", uuid: 67, label: 71, length: 11},
	{kind: "vfat", at: 54, magic: "FAT1", uuid: 39, label: 43, length: 11},
}

// identify says what is on a device.
func identify(r io.ReaderAt) (kind, uuid, label string) {
	head := make([]byte, 132<<10)
	n, _ := r.ReadAt(head, 0) // a small one ends before
	head = head[:n]
	part := func(at int64, length int) []byte {
		if at+int64(length) > int64(len(head)) {
			return nil
		}
		return head[at : at+int64(length)]
	}
	for _, s := range signatures {
		if !bytes.Equal(part(s.at, len(s.magic)), []byte(s.magic)) {
			continue
		}
		if s.kind == "vfat" {
			if v := part(s.uuid, 4); v != nil {
				uuid = fmt.Sprintf("%02X%02X-%02X%02X", v[3], v[2], v[1], v[0])
			}
		} else if v := part(s.uuid, 16); s.uuid > 0 && v != nil {
			h := hex.EncodeToString(v)
			uuid = strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
		}
		if v := part(s.label, s.length); s.label > 0 && v != nil {
			v, _, _ = bytes.Cut(v, []byte{0})
			label = strings.TrimRight(string(v), " ")
		}
		return s.kind, uuid, label
	}
	return "", "", ""
}
