package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/leeward-dr/leeward/control/target"
)

// Disk is where one disk of the machine is: a file, a block device, or an export of an NBD
// server on a unix socket. All paths are absolute.
type Disk struct {
	File   string // file or block device
	Block  bool   // File is a block device
	Format string // of File: raw (default), qcow2, vmdk or vpc
	Socket string // of the NBD server, if there is no File
	Export string // its export
}

// Options say what is not the machine's.
type Options struct {
	Virtio bool   // virtio disks and network card, instead of SATA and e1000e
	Bridge string // of the host, for the network card; empty: libvirt's network "default"
}

type domain struct {
	XMLName xml.Name `xml:"domain"`
	Type    string   `xml:"type,attr"`
	Comment string   `xml:",comment"`
	Name    string   `xml:"name"`
	Memory  memory   `xml:"memory"`
	CPUs    int      `xml:"vcpu"`
	OS      system   `xml:"os"`
	ACPI    *empty   `xml:"features>acpi"`
	CPU     *mode    `xml:"cpu"`
	Clock   clock    `xml:"clock"`
	Off     string   `xml:"on_poweroff"`
	Reboot  string   `xml:"on_reboot"`
	Crash   string   `xml:"on_crash"`
	Devices devices  `xml:"devices"`
}

type empty struct{}

type memory struct {
	Unit string `xml:"unit,attr"`
	Size int64  `xml:",chardata"`
}

type system struct {
	Firmware string `xml:"firmware,attr,omitempty"`
	Type     osType `xml:"type"`
}

type osType struct {
	Arch    string `xml:"arch,attr"`
	Machine string `xml:"machine,attr"`
	Kind    string `xml:",chardata"`
}

type mode struct {
	Mode string `xml:"mode,attr"`
}

type clock struct {
	Offset string `xml:"offset,attr"`
}

type devices struct {
	Disks     []disk   `xml:"disk"`
	Interface card     `xml:"interface"`
	Serial    typed    `xml:"serial"`
	Console   typed    `xml:"console"`
	Graphics  graphics `xml:"graphics"`
	Video     video    `xml:"video"`
	Random    random   `xml:"rng"`
}

type typed struct {
	Type string `xml:"type,attr"`
}

type graphics struct {
	Type   string `xml:"type,attr"`
	Listen string `xml:"listen,attr"`
}

type video struct {
	Model typed `xml:"model"`
}

type random struct {
	Model   string  `xml:"model,attr"`
	Backend backend `xml:"backend"`
}

type backend struct {
	Model string `xml:"model,attr"`
	Path  string `xml:",chardata"`
}

type disk struct {
	Type   string `xml:"type,attr"`
	Device string `xml:"device,attr"`
	Driver driver `xml:"driver"`
	Source source `xml:"source"`
	Target where  `xml:"target"`
	Boot   order  `xml:"boot"`
}

type driver struct {
	Name    string `xml:"name,attr"`
	Type    string `xml:"type,attr"`
	Cache   string `xml:"cache,attr,omitempty"`
	Discard string `xml:"discard,attr"`
}

type source struct {
	File     string `xml:"file,attr,omitempty"`
	Dev      string `xml:"dev,attr,omitempty"`
	Protocol string `xml:"protocol,attr,omitempty"`
	Name     string `xml:"name,attr,omitempty"`
	Host     *host  `xml:"host"`
}

type host struct {
	Transport string `xml:"transport,attr"`
	Socket    string `xml:"socket,attr"`
}

type where struct {
	Dev string `xml:"dev,attr"`
	Bus string `xml:"bus,attr"`
}

type order struct {
	Order int `xml:"order,attr"`
}

type card struct {
	Type   string  `xml:"type,attr"`
	Source network `xml:"source"`
	Model  typed   `xml:"model"`
}

type network struct {
	Network string `xml:"network,attr,omitempty"`
	Bridge  string `xml:"bridge,attr,omitempty"`
}

// maxDisks is how many there are names for: sda to sdz.
const maxDisks = 26

// defaultMemory is for a machine that does not say, in bytes.
const defaultMemory = 1 << 30

// Domain returns the XML of a domain that is m, with its disks where they are said to be, in
// the same order.
func Domain(m *target.Machine, where []Disk, o Options) ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	if len(where) != len(m.Disks) || len(where) > maxDisks {
		return nil, fmt.Errorf("machine %s has %d disks and %d places for them, at most %d", m.Name, len(m.Disks), len(where), maxDisks)
	}
	memoryKiB := max(m.Memory, 0) >> 10
	if memoryKiB == 0 {
		memoryKiB = defaultMemory >> 10
	}
	d := domain{
		Type:    "kvm",
		Comment: " Made by Leeward. Check the network, then: virsh define FILE. Without KVM: type=\"qemu\", and no cpu element. ",
		Name:    m.Name, Memory: memory{"KiB", memoryKiB}, CPUs: max(1, m.CPUs),
		OS:   system{Type: osType{Arch: "x86_64", Machine: "q35", Kind: "hvm"}},
		ACPI: &empty{}, CPU: &mode{"host-model"}, Clock: clock{"utc"},
		Off: "destroy", Reboot: "restart", Crash: "destroy",
		Devices: devices{
			Interface: card{Type: "network", Source: network{Network: "default"}, Model: typed{"e1000e"}},
			Serial:    typed{"pty"}, Console: typed{"pty"}, Graphics: graphics{"vnc", "127.0.0.1"}, Video: video{typed{"vga"}},
			Random: random{"virtio", backend{"random", "/dev/urandom"}},
		},
	}
	if m.Firmware == "uefi" {
		d.OS.Firmware = "efi"
	}
	if o.Bridge != "" {
		d.Devices.Interface.Type, d.Devices.Interface.Source = "bridge", network{Bridge: o.Bridge}
	}
	if o.Virtio {
		d.Devices.Interface.Model.Type = "virtio"
	}
	for i, w := range where {
		x, err := w.describe(i, o.Virtio)
		if err != nil {
			return nil, fmt.Errorf("disk %s of machine %s: %w", m.Disks[i].Name(), m.Name, err)
		}
		d.Devices.Disks = append(d.Devices.Disks, x)
	}
	b, err := xml.MarshalIndent(&d, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

func (w Disk) describe(i int, virtio bool) (disk, error) {
	x := disk{Device: "disk", Driver: driver{Name: "qemu", Type: "raw", Discard: "unmap"}, Boot: order{i + 1}}
	switch w.Format {
	case "", "raw", "qcow2", "vmdk", "vpc":
		if w.Format != "" {
			x.Driver.Type = w.Format
		}
	default:
		return x, fmt.Errorf("a format %q, which QEMU does not call so", w.Format)
	}
	letter := string(rune('a' + i))
	x.Target = where{"sd" + letter, "sata"}
	if virtio {
		x.Target = where{"vd" + letter, "virtio"}
	}
	path := w.File + w.Socket
	switch {
	case (w.File == "") == (w.Socket == ""):
		return x, errors.New("it is in a file or behind a socket, in one of them")
	case !filepath.IsAbs(path) || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' }):
		return x, fmt.Errorf("the path %q is not one that libvirt takes: it must be absolute", path)
	case w.Socket != "":
		x.Type, x.Source = "network", source{Protocol: "nbd", Name: w.Export, Host: &host{"unix", w.Socket}}
	case w.Block:
		x.Type, x.Driver.Cache, x.Source = "block", "none", source{Dev: w.File}
	default:
		x.Type, x.Source = "file", source{File: w.File}
	}
	return x, nil
}
