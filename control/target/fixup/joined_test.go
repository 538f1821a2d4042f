package fixup

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

// What a physical volume says of itself is read, also when it wraps around; and its logical
// volumes lie where it says.
func TestReadPhysical(t *testing.T) {
	b := targettest.Volume(make([]byte, 17<<20))
	p, err := readPhysical(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	g := p.group
	if g == nil || g.name != "machine" || g.serial != 4 || len(g.logical) != 2 || p.id != strings.ReplaceAll(targettest.GroupID, "-", "") {
		t.Fatalf("%+v", p)
	}
	table, why := g.table(&g.logical[0], map[string]string{p.id: "/dev/vda3"})
	want := []mapping{{0, 2 * 8192, "linear", "/dev/vda3 26624"}, {2 * 8192, 3 * 8192, "linear", "/dev/vda3 2048"}}
	if why != "" || !reflect.DeepEqual(table, want) {
		t.Errorf("%+v %s, want %+v", table, why, want)
	}
	if _, why := g.table(&g.logical[0], nil); why == "" {
		t.Error("set up without its disk")
	}
	if _, why := g.table(&g.logical[1], map[string]string{p.id: "x"}); why != "is of type thin" {
		t.Errorf("a thin volume: %q", why)
	}
	if n := mapperName("a-b", "c"); n != "a--b-c" {
		t.Error(n)
	}
	for at, what := range map[int]string{512 + 33: "label", 4096 + 30: "area", 1<<20 - 600: "text"} {
		bad := bytes.Clone(b)
		bad[at] ^= 1
		if _, err := readPhysical(bytes.NewReader(bad)); err == nil {
			t.Errorf("a damaged %s is believed", what)
		}
	}
}

// Descriptions that make no sense are refused.
func TestBadGroups(t *testing.T) {
	good := targettest.GroupText(4)
	if _, err := parseGroup([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for was, is := range map[string]string{
		"seqno = 4":         "seqno = x",
		"extent_size = ":    "size = ",
		`"pv0", 0`:          `"pv1", 0`,
		"start_extent = 2":  "start_extent = 3",
		"extent_count = 2":  "extent_count = 0",
		`format = "lvm2"`:   `format = "lvm2`,
		"flags = []":        "flags = [",
		"logical_volumes {": "logical_volumes",
	} {
		if !strings.Contains(good, was) {
			t.Fatalf("%s is not there", was)
		}
		if g, err := parseGroup([]byte(strings.Replace(good, was, is, 1))); err == nil {
			t.Errorf("%s was believed: %+v", is, g)
		}
	}
	striped := strings.Replace(good, "stripe_count = 1	# linear\n\nstripes = [\n\"pv0\", 0\n", "stripe_count = 2\nstripe_size = 128\nstripes = [\n\"pv0\", 0,\n\"pv0\", 7\n", 1)
	g, err := parseGroup([]byte(striped))
	if err != nil {
		t.Fatal(err)
	}
	id := strings.ReplaceAll(targettest.GroupID, "-", "")
	table, _ := g.table(&g.logical[0], map[string]string{id: "/dev/vda"})
	if len(table) != 2 || table[1].kind != "striped" || table[1].params != "2 128 /dev/vda 2048 /dev/vda 59392" {
		t.Errorf("%+v", table)
	}
}

// A RAID is started when all of it is there, in the order of its members, whatever the
// version of its superblocks.
func TestArrays(t *testing.T) {
	for version, want := range map[string]struct {
		name         string
		major, minor int
		damage       []int // bytes behind the superblock's first that are to be noticed
	}{
		"1.2": {"boot", 1, 2, []int{4, 72, 258}}, "1.1": {"boot", 1, 1, []int{4, 72, 258}}, "1.0": {"boot", 1, 0, []int{4, 72, 258}},
		"0.90": {"7", 0, 90, []int{4 * 5, 4 * 7, 4 * 130}},
	} {
		two := targettest.Mirror(version, "boot", make([]byte, 1<<20))
		var all []*raidMember
		for i, b := range two {
			size := int64(len(b))
			m, err := readRaid(bytes.NewReader(b), size)
			if err != nil {
				t.Fatalf("%s: %v", version, err)
			}
			if m.name != want.name || m.level != 1 || m.disks != 2 || m.role != uint16(i) || m.major != want.major || m.minor != want.minor || m.events != 7 {
				t.Errorf("%s: %+v", version, m)
			}
			if atEnd := version == "1.0" || version == "0.90"; endsAsRaid(bytes.NewReader(b), size) != atEnd {
				t.Errorf("%s ends as a RAID: %v", version, !atEnd)
			}
			all = append(all, m)
		}
		a := arrays([]string{"vdb", "vda"}, []*raidMember{all[1], all[0]})
		if len(a) != 1 || fmt.Sprint(a[0].devices) != "[vda vdb]" || a[0].why() != "" {
			t.Errorf("%s: %+v", version, a[0])
		}
		if a := arrays([]string{"vda"}, all[:1]); len(a) != 1 || a[0].why() == "" {
			t.Errorf("%s: half a RAID would be started", version)
		}
		at := bytes.Index(two[0], []byte{0xfc, 0x4e, 0x2b, 0xa9})
		for _, i := range want.damage {
			bad := bytes.Clone(two[0])
			bad[at+i] ^= 1
			if m, err := readRaid(bytes.NewReader(bad), int64(len(bad))); err == nil {
				t.Errorf("%s: a superblock that is damaged at %d is believed: %+v", version, i, m)
			}
		}
	}
	if n := majorOf([]byte("Character devices:\n  1 mem\n\nBlock devices:\n  7 loop\n253 device-mapper\n"), "device-mapper"); n != 253 {
		t.Error(n)
	}
}

// A superblock at the end of a disk's last partition is not the disk's.
func TestRaidOfLastPartition(t *testing.T) {
	for _, version := range []string{"1.0", "0.90"} {
		part := targettest.Mirror(version, "x", make([]byte, 1<<20))[0]
		disk := append(make([]byte, 8<<20), part...)
		if !endsAsRaid(bytes.NewReader(part), int64(len(part))) || endsAsRaid(bytes.NewReader(disk), int64(len(disk))) {
			t.Errorf("%s: the partition's superblock is taken for the disk's, or not seen", version)
		}
	}
}

// What LVM's own tools write is read as they mean it.
func TestRealLVM(t *testing.T) {
	targettest.Need(t, "pvcreate", "vgcreate", "lvcreate", "losetup", "blkid")
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("MISSING: loop devices need root")
		}
		t.Skip("MISSING: loop devices need root")
	}
	image := filepath.Join(t.TempDir(), "pv")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	run := func(argv ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := exec.CommandContext(ctx, argv[0], argv[1:]...)
		c.WaitDelay = 5 * time.Second
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%q: %v: %s", argv, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	loop := run("losetup", "-f", "--show", image)
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", loop).Run() })
	// Without the kernel's help, looking at this device only.
	only := []string{"--driverloaded", "n", "--config", `devices { filter=["a|^` + loop + `$|","r|.*|"] use_devicesfile=0 } backup { backup=0 archive=0 } global { use_lvmpolld=0 locking_type=1 } activation { udev_sync=0 udev_rules=0 }`}
	group := fmt.Sprintf("leewardtest%d", os.Getpid())
	run(append([]string{"pvcreate", "-q", "-ff", "-y", loop}, only...)...)
	run(append([]string{"vgcreate", "-q", group, loop}, only...)...)
	for _, lv := range []string{"root", "home"} {
		run(append([]string{"lvcreate", "-q", "-y", "-an", "-Zn", "-Wn", "-n", lv, "-l", "4", group}, only...)...)
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if kind, _, _ := identify(f); kind != "lvm" {
		t.Errorf("it is %q", kind)
	}
	if id, want := volumeID(f), run("blkid", "-p", "-o", "value", "-s", "UUID", image); id != want {
		t.Errorf("it is called %q, want %q", id, want)
	}
	p, err := readPhysical(f)
	if err != nil {
		t.Fatal(err)
	}
	if p.group == nil || p.group.name != group || len(p.group.logical) != 2 {
		t.Fatalf("%+v", p.group)
	}
	table, why := p.group.table(&p.group.logical[1], map[string]string{p.id: "X"})
	if why != "" || len(table) != 1 || table[0].length != 4*8192 || table[0].params != "X 34816" {
		t.Errorf("%+v %s", table, why)
	}
}

func FuzzGroup(f *testing.F) {
	f.Add([]byte(targettest.GroupText(4)))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if g, err := parseGroup(b); err == nil {
			for i := range g.logical {
				g.table(&g.logical[i], map[string]string{"": "x"})
			}
		}
	})
}

func FuzzMembers(f *testing.F) {
	v := targettest.Volume(nil)
	f.Add(v[:8192])
	for _, version := range []string{"1.2", "1.1", "1.0", "0.90"} {
		f.Add(targettest.Mirror(version, "x", make([]byte, 512))[0])
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = readPhysical(bytes.NewReader(b))
		if m, err := readRaid(bytes.NewReader(b), int64(len(b))); err == nil {
			for _, a := range arrays([]string{"a", "b"}, []*raidMember{m, m}) {
				a.why()
			}
		}
	})
}
