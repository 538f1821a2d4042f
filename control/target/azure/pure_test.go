package azure

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

func size(name string, cpus int, gib int64, disks int, gens string) vmSize {
	return vmSize{name: name, cpus: cpus, memory: gib << 30, dataDisks: disks, generations: strings.Split(gens, ","), arch: "x64", premium: true, zones: []string{"1"}}
}

func TestChoose(t *testing.T) {
	arm, barred, plain := size("Standard_D2ps_v5", 2, 8, 4, "V2"), size("Standard_D2s_v6", 2, 8, 4, "V1,V2"), size("Standard_D2_v3", 2, 8, 4, "V1")
	arm.arch, barred.barred, plain.premium, plain.zones = "arm64", "the subscription may not use it in this region", false, nil
	nvme := size("Standard_D2s_v7", 2, 8, 4, "V1,V2")
	nvme.controllers = "NVMe"
	all := []vmSize{
		arm, nvme, barred, plain, size("Standard_E64s_v5", 64, 512, 32, "V2"), size("Standard_D4s_v5", 4, 16, 8, "V1,V2"), size("Standard_D2s_v5", 2, 8, 4, "V1,V2"),
		size("Standard_E2s_v5", 2, 16, 4, "V1,V2"), size("Standard_F4s_v2", 4, 8, 16, "V1,V2"), size("Standard_B1s", 1, 1, 2, "V1,V2"), size("Standard_NC4", 4, 28, 8, "V1,V2"),
	}
	bios := wanted{cpus: 2, memory: 4 << 30, disks: 1, generation: "V1"}
	with := func(change func(*wanted)) wanted { w := bios; change(&w); return w }
	for _, c := range []struct {
		about, name string
		w           wanted
		want, err   string
	}{
		{about: "the smallest, and of those the newest", w: bios, want: "Standard_D2s_v5"},
		{about: "one CPU gets two: tiny sizes are not chosen", w: with(func(w *wanted) { w.cpus, w.memory = 1, 0 }), want: "Standard_D2s_v5"},
		{about: "memory", w: with(func(w *wanted) { w.memory = 15 << 30 }), want: "Standard_E2s_v5"},
		{about: "CPUs", w: with(func(w *wanted) { w.cpus = 3 }), want: "Standard_F4s_v2"},
		{about: "disks", w: with(func(w *wanted) { w.disks = 8 }), want: "Standard_F4s_v2"},
		{about: "too many disks", w: with(func(w *wanted) { w.disks = 64 }), err: "room for 64 disks"},
		{about: "UEFI", w: with(func(w *wanted) { w.generation, w.cpus = "V2", 5 }), want: "Standard_E64s_v5"},
		{about: "none boots with a BIOS", w: with(func(w *wanted) { w.cpus = 5 }), err: "generation V1"},
		{about: "no zone has it", w: with(func(w *wanted) { w.zone = "2" }), err: "no size"},
		{about: "named", name: "standard_nc4", w: bios, want: "Standard_NC4"},
		{about: "named and small", name: "Standard_B1s", w: bios, want: "Standard_B1s"},
		{about: "named, unknown", name: "Standard_X1", w: bios, err: "has no size Standard_X1"},
		{about: "named, another processor", name: "Standard_D2ps_v5", w: with(func(w *wanted) { w.generation = "V2" }), err: "arm64"},
		{about: "named, barred", name: "Standard_D2s_v6", w: bios, err: "may not use it"},
		{about: "named, another firmware", name: "Standard_E64s_v5", w: bios, err: "firmware needs V1"},
		{about: "named, premium", name: "Standard_D2_v3", w: with(func(w *wanted) { w.premium = true }), err: "premium"},
		{about: "named, zone", name: "Standard_D2_v3", w: with(func(w *wanted) { w.zone = "1" }), err: "zone 1"},
		{about: "named, NVMe only", name: "Standard_D2s_v7", w: bios, err: "behind NVMe only"},
		{about: "what keeps the nearest out is said", w: with(func(w *wanted) { w.cpus = 5 }), err: "the nearest is Standard_E64s_v5, but it boots generation V2"},
	} {
		s, err := choose(all, c.w, c.name)
		if s.name != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %s, %v, want %s, %q", c.about, s.name, err, c.want, c.err)
		}
	}
}

func TestPlace(t *testing.T) {
	good := place()
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*Place){
		"subscription": func(p *Place) { p.Subscription = "mine" }, "resource group": func(p *Place) { p.ResourceGroup = "a/b" },
		"region": func(p *Place) { p.Region = "West Europe" }, "zone": func(p *Place) { p.Zone = "4" }, "subnet": func(p *Place) { p.Subnet = "one" },
		"size": func(p *Place) { p.Size = "a b" }, "disk sku": func(p *Place) { p.DiskSKU = "UltraSSD_LRS" }, "via": func(p *Place) { p.Via = "post" },
		"account": func(p *Place) { p.Via, p.Account = Import, "mine" }, "container": func(p *Place) { p.Container = "A" }, "cloud": func(p *Place) { p.Cloud = "nine" },
	} {
		p := good
		spoil(&p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("a wrong %s: %v", what, err)
		}
	}
	if err := (Place{}).Check(); err == nil || !strings.Contains(err.Error(), "no subscription is given") {
		t.Errorf("nothing given: %v", err)
	}
	p := Place{Region: "northeurope"}.Over(good)
	if p.Region != "northeurope" || p.Subscription != good.Subscription {
		t.Errorf("%+v", p)
	}
	if got, want := good.subnet(), good.group()+"/providers/Microsoft.Network/virtualNetworks/site/subnets/servers"; got != want {
		t.Errorf("subnet %s, want %s", got, want)
	}
	if got := good.blobURL("a/b.vhd"); got != "https://leewardtest.blob.core.windows.net/leeward-disks/a/b.vhd" {
		t.Error(got)
	}
}

func TestReadPlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "azure.yaml")
	if p, err := ReadPlace(file); err != nil || p != (Place{}) {
		t.Errorf("no file: %+v, %v", p, err)
	}
	for text, want := range map[string]string{
		"subscription: abc\nregion: westeurope\n": "", "subsription: abc\n": "subsription", "region: [a]\n": "azure.yaml", "size: " + strings.Repeat("x", maxFile): "at most",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := ReadPlace(file)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || err == nil && p.Region != "westeurope" {
			t.Errorf("%.40q: %+v, %v", text, p, err)
		}
	}
}

// bigDisk is one that says it is big.
type bigDisk struct {
	*targettest.Disk
	size int64
}

func (d bigDisk) Size() int64 { return d.size }

func TestPossible(t *testing.T) {
	for about, c := range map[string]struct {
		size     int64
		second   int64
		firmware string
		via      string
		want     string
	}{
		"good": {size: 2 << 40}, "BIOS": {size: 2<<40 + 512, want: "BIOS"}, "UEFI": {size: 3 << 40, firmware: "uefi"}, "too big to boot from": {size: 4 << 40, firmware: "uefi", want: "boot from"},
		"data": {size: 1 << 30, second: 31 << 40}, "too much data": {size: 1 << 30, second: 32 << 40, want: "managed disk"},
		"page blob": {size: 1 << 30, second: 9 << 40, via: Import, want: "page blob"},
	} {
		m := &target.Machine{Name: "web", Firmware: or(c.firmware, "bios")}
		for _, n := range []int64{c.size, c.second} {
			if n > 0 {
				m.Disks = append(m.Disks, bigDisk{targettest.Mem("d", nil), n})
			}
		}
		p := place()
		p.Via = c.via
		err := New(Config{Place: p, Isolated: true}).possible(m)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", about, err, c.want)
		}
	}
	p := place()
	p.Subnet = ""
	m := machine(make([]byte, 4096))
	if err := New(Config{Place: p}).possible(m); err == nil || !strings.Contains(err.Error(), "subnet") {
		t.Errorf("no subnet: %v", err)
	}
	if err := New(Config{Place: p, Isolated: true}).possible(m); err != nil {
		t.Errorf("an isolated machine needs no subnet: %v", err)
	}
	for range mostDisks {
		m.Disks = append(m.Disks, m.Disks[0])
	}
	if err := New(Config{Place: p, Isolated: true}).possible(m); err == nil || !strings.Contains(err.Error(), "disks") {
		t.Errorf("many disks: %v", err)
	}
}

// Runs of bytes behave as a set of bytes does.
func TestSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 200
		var s spans
		set := make([]bool, size)
		for range rapid.IntRange(0, 30).Draw(t, "n") {
			off := rapid.Int64Range(0, size-1).Draw(t, "off")
			end := rapid.Int64Range(off, size).Draw(t, "end")
			s.add(off, end)
			for i := off; i < end; i++ {
				set[i] = true
			}
		}
		all := s.list()
		got := make([]bool, size)
		for i, x := range all {
			if x.off >= x.end || i > 0 && all[i-1].end >= x.off {
				t.Fatalf("%v", all)
			}
			for k := x.off; k < x.end; k++ {
				got[k] = true
			}
		}
		if !slices.Equal(got, set) {
			t.Fatalf("%v is not the set", all)
		}
		off := rapid.Int64Range(0, size-1).Draw(t, "off")
		x := span{off, rapid.Int64Range(off, size).Draw(t, "end")}
		rest := make([]bool, size)
		for _, y := range x.without(all) {
			for k := y.off; k < y.end; k++ {
				rest[k] = true
			}
		}
		for k := range set {
			if want := int64(k) >= x.off && int64(k) < x.end && !set[k]; rest[k] != want {
				t.Fatalf("byte %d of %v without %v: %v", k, x, all, rest[k])
			}
		}
	})
}

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	if _, err := openBook(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no record: %v", err)
	}
	m := machine([]byte{1: 1, 4095: 0})
	b := newBook(dir, "0a0b0c0d", m, place(), true, "Standard_D2s_v5")
	if err := errors.Join(b.keep("make disk", "a token"), b.change(func(r *record) { r.Disks[0].Filled = true })); err != nil {
		t.Fatal(err)
	}
	got, err := openBook(dir)
	if err != nil || got.token("make disk") != "a token" || !got.Disks[0].Filled || got.base() != "lw-web-0a0b0c0d" || got.Place != place() {
		t.Errorf("%+v, %v", got, err)
	}
	if err := got.fits(m); err != nil {
		t.Error(err)
	}
	if err := got.fits(machine([]byte{1: 2, 4095: 0})); err == nil {
		t.Error("another point is taken for the same")
	}
	st, err := os.Stat(filepath.Join(dir, recordFile))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	for text, want := range map[string]string{"{": "understood", `{"version":9,"run":"x"}`: "version", `{"version":1,"run":"x"}`: "subscription"} {
		if err := os.WriteFile(filepath.Join(dir, recordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openBook(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	long := record{Machine: strings.Repeat("a", 39) + "-b", Run: "0a0b0c0d"}
	if n := long.base(); n != "lw-"+strings.Repeat("a", 39)+"-0a0b0c0d" || len(long.disk(64)) > 80 {
		t.Error(n)
	}
}

// A record from outside never takes the program down.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"run":"a","machine":"web","disks":[{"name":"sda","size":1}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, recordFile), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := openBook(dir)
		if err == nil {
			_, _ = b.base(), b.fits(machine(make([]byte, 4096)))
		}
	})
}

func TestUnsigned(t *testing.T) {
	err := unsigned(errors.New(`Put "https://md-1.blob.storage.azure.net/x/abcd?sv=2018&sig=SECRET%3D": EOF`))
	if strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), "/x/abcd?[signature]") {
		t.Error(err)
	}
	if got := plain("https://a.b/c?sig=x"); got != "https://a.b/c" {
		t.Error(got)
	}
	if bytes.Contains([]byte(plain("::")), []byte("sig")) {
		t.Error("a broken address is shown")
	}
}
