package libvirt

import (
	"bytes"
	"encoding/xml"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func machine(firmware string, disks int) *target.Machine {
	m := &target.Machine{Name: "db1 & <prod>", CPUs: 4, Memory: 2 << 30, Firmware: firmware}
	for i := range disks {
		m.Disks = append(m.Disks, targettest.Mem("sd"+string(rune('a'+i)), make([]byte, 1<<20)))
	}
	return m
}

// schema is libvirt's own description of what a domain may be.
const schema = "/usr/share/libvirt/schemas/domain.rng"

// The XML stays what it is, and libvirt's schema allows it.
func TestGolden(t *testing.T) {
	targettest.Need(t, "xmllint")
	if _, err := os.Stat(schema); err != nil {
		targettest.Missing(t, "libvirt's schema ("+schema+") is not installed")
	}
	for name, c := range map[string]struct {
		m     *target.Machine
		disks []Disk
		o     Options
	}{
		"bios":   {machine("bios", 2), []Disk{{File: "/srv/leeward/db1-sda.raw"}, {File: "/srv/leeward/db1-sdb.qcow2", Format: "qcow2"}}, Options{}},
		"virtio": {machine("uefi", 2), []Disk{{Socket: "/run/leeward/nbd.sock", Export: "disk0"}, {File: "/dev/sdq", Block: true}}, Options{Virtio: true, Bridge: "br0"}},
	} {
		got, err := Domain(c.m, c.disks, c.o)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", name+".xml")
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
		if out, err := exec.Command("xmllint", "--noout", "--relaxng", schema, file).CombinedOutput(); err != nil {
			t.Errorf("libvirt's schema does not allow %s: %v\n%s", name, err, out)
		}
		var back domain
		if err := xml.Unmarshal(got, &back); err != nil || back.Name != c.m.Name || len(back.Devices.Disks) != len(c.disks) {
			t.Errorf("%s: %+v, %v", name, back, err)
		}
	}
	bad := filepath.Join(t.TempDir(), "bad.xml")
	b, err := os.ReadFile("testdata/bios.xml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, bytes.Replace(b, []byte("vcpu>"), []byte("cpus>"), 2), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("xmllint", "--noout", "--relaxng", schema, bad).Run(); err == nil {
		t.Error("the schema allows everything")
	}
}

func TestRefuses(t *testing.T) {
	for what, disks := range map[string][]Disk{
		"no place": nil, "two places": {{File: "/a", Socket: "/b"}}, "nowhere": {{}}, "relative": {{File: "a.raw"}}, "line": {{File: "/a\nb"}}, "format": {{File: "/a", Format: "vhd"}},
	} {
		if b, err := Domain(machine("bios", 1), disks, Options{}); err == nil {
			t.Errorf("%s: %s", what, b)
		}
	}
	if _, err := Domain(machine("coreboot", 1), []Disk{{File: "/a"}}, Options{}); err == nil || !strings.Contains(err.Error(), "coreboot") {
		t.Errorf("a firmware that there is not: %v", err)
	}
}
