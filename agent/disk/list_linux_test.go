package disk

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestLocals(t *testing.T) {
	sys, byID := t.TempDir(), t.TempDir()
	has := func(name string, files map[string]string) {
		if err := os.MkdirAll(filepath.Join(sys, name), 0o755); err != nil {
			t.Fatal(err)
		}
		for f, text := range files {
			if err := os.WriteFile(filepath.Join(sys, name, f), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	has("sda", map[string]string{"size": "1000", "removable": "0", "ro": "0", "hidden": "0"})
	has("nvme0n1", map[string]string{"size": "2000", "removable": "0"})
	has("cciss!c0d0", map[string]string{"size": "2000"})
	has("sdb", map[string]string{"size": "1000", "removable": "1"})
	has("sdc", map[string]string{"size": "0"})
	has("sdd", map[string]string{"size": "10", "ro": "1"})
	has("nvme1c0n1", map[string]string{"size": "10", "hidden": "1"})
	for _, made := range []string{"loop0", "ram0", "dm-0", "md127", "sr0", "zram0", "nbd0"} {
		has(made, map[string]string{"size": "1000"})
	}
	for link, to := range map[string]string{
		"ata-DISK_123": "../../sda", "wwn-0x5000": "../../sda", "wwn-0x5000-part1": "../../sda1",
		"nvme-MODEL_9": "../../nvme0n1", "nvme-eui.0025": "../../nvme0n1", "lvm-pv-uuid-x": "../../nvme0n1",
	} {
		if err := os.Symlink(to, filepath.Join(byID, link)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := locals(sys, byID)
	want := []Local{{"cciss!c0d0", "/dev/cciss/c0d0"}, {"nvme0n1", filepath.Join(byID, "nvme-eui.0025")}, {"sda", filepath.Join(byID, "wwn-0x5000")}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v\nwant %v", got, err, want)
	}
	if got, err := locals(sys, filepath.Join(byID, "none")); err != nil || len(got) != 3 || got[2].Stable != "/dev/sda" {
		t.Errorf("without links: %v, %v", got, err)
	}
	if _, err := locals(filepath.Join(sys, "none"), byID); err == nil {
		t.Error("no list, and no error")
	}
}
