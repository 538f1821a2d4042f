package qemu

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Names in a run's directory, which is QEMU's working directory: so they are short
// enough for sockets, and need no quoting, wherever the directory is.
const (
	varsFile   = "vars.fd"
	nbdSocket  = "nbd.sock"
	serialFile = "serial.log"
	screenFile = "screen.png"
	screenRaw  = "screen.ppm"
	qemuFile   = "qemu.log"
)

// The files QEMU inherits.
const (
	qmpFD    = 3
	serialFD = 4
	tapFD    = 5 // if the guest is on a bridge
)

// plan is a machine as QEMU is told of it.
type plan struct {
	name      string
	cpus      int
	memoryMiB int64
	accel     accel
	uefiCode  string // file with UEFI's code; "" for BIOS
	disks     int
	hardware  Hardware
	open      bool
	bridge    string
}

// args returns QEMU's command line.
func (p *plan) args() []string {
	a := []string{
		"-name", "guest=" + strings.ReplaceAll(p.name, ",", ",,"),
		"-nodefaults", "-no-user-config", "-S", "-display", "none", "-vga", "std",
		// A guest that powered off stays, stopped, until its screen was looked at.
		"-no-shutdown",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-m", strconv.FormatInt(p.memoryMiB, 10), "-smp", strconv.Itoa(p.cpus),
		"-rtc", "base=utc",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=serial,fd=%d", serialFD), "-serial", "chardev:serial",
		// Guests with old kernels wait long for randomness at boot.
		"-device", "virtio-rng-pci",
	}
	a = append(a, p.accel.args()...)
	machine := "q35"
	if p.uefiCode != "" {
		machine += ",pflash0=code,pflash1=vars"
		a = append(a,
			"-blockdev", node("raw", "code", map[string]any{"read-only": true, "file": map[string]any{"driver": "file", "filename": p.uefiCode}}),
			"-blockdev", node("raw", "vars", map[string]any{"file": map[string]any{"driver": "file", "filename": varsFile}}))
	}
	a = append(a, "-machine", machine)
	a = append(a, p.diskArgs()...)
	return append(a, p.netArgs()...)
}

func node(driver, name string, more map[string]any) string {
	more["driver"], more["node-name"] = driver, name
	b, err := json.Marshal(more)
	if err != nil {
		panic(err) // strings and maps of them only
	}
	return string(b)
}

func exportName(i int) string { return fmt.Sprint("disk", i) }

// ahciPorts is how many disks fit an AHCI controller. q35 has one of its own.
const ahciPorts = 6

func (p *plan) diskArgs() (a []string) {
	for i := range p.disks {
		name := exportName(i)
		a = append(a, "-blockdev", node("nbd", name, map[string]any{
			"server": map[string]any{"type": "unix", "path": nbdSocket}, "export": name,
			"discard": "unmap", "detect-zeroes": "on",
		}))
		// A read that fails stops the guest; it goes on when the vault does.
		device := fmt.Sprintf("drive=%s,id=dev-%s,bootindex=%d,werror=stop,rerror=stop", name, name, i+1)
		if p.hardware == Virtio {
			a = append(a, "-device", "virtio-blk-pci,"+device)
			continue
		}
		bus := fmt.Sprintf("ide.%d", i)
		if i >= ahciPorts {
			c := i / ahciPorts
			if i%ahciPorts == 0 {
				a = append(a, "-device", fmt.Sprintf("ich9-ahci,id=ahci%d", c))
			}
			bus = fmt.Sprintf("ahci%d.%d", c, i%ahciPorts)
		}
		a = append(a, "-device", fmt.Sprintf("ide-hd,bus=%s,%s", bus, device))
	}
	return a
}

// netName is the guest's network.
const netName = "net0"

func (p *plan) netArgs() []string {
	card, restrict := "e1000e", "on"
	if p.hardware == Virtio {
		card = "virtio-net-pci"
	}
	if p.open {
		restrict = "off"
	}
	if p.bridge != "" {
		return []string{
			"-netdev", fmt.Sprintf("tap,id=%s,fd=%d", netName, tapFD),
			"-device", card + ",netdev=" + netName + ",mac=" + macOf(p.name) + ",romfile=",
		}
	}
	return []string{
		"-netdev", "user,id=" + netName + ",restrict=" + restrict,
		// No boot ROM: a guest whose disk does not boot must not boot from elsewhere.
		"-device", card + ",netdev=" + netName + ",romfile=",
	}
}
