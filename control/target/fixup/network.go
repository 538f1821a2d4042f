package fixup

import (
	"fmt"
	"regexp"
	"strings"
)

// A machine that comes up elsewhere has another network card, so every name, address and
// hardware address in its configuration is of another place. What is written instead asks
// for an address by DHCP on whatever Ethernet card is there. What the machine had stays
// beside it under a name that its network manager does not read.

const networkdDHCP = `# Written by Leeward for a machine that was failed over.
[Match]
Type=ether

[Network]
DHCP=yes

[DHCPv4]
ClientIdentifier=mac
`

const keyfileDHCP = `# Written by Leeward for a machine that was failed over.
[connection]
id=leeward
type=ethernet
autoconnect=true
autoconnect-priority=999

[ipv4]
method=auto

[ipv6]
method=auto
`

// netplanDHCP keeps who carries out what netplan says.
func netplanDHCP(renderer string) string {
	if renderer != "" {
		renderer = "  renderer: " + renderer + "\n"
	}
	return "# Written by Leeward for a machine that was failed over.\nnetwork:\n  version: 2\n" + renderer +
		"  ethernets:\n    leeward:\n      match:\n        name: \"e*\"\n      dhcp4: true\n      dhcp-identifier: mac\n      optional: true\n"
}

var netplanRenderer = regexp.MustCompile(`(?m)^\s*renderer:\s*(NetworkManager|networkd)\s*$`)

// interfacesDHCP is an /etc/network/interfaces that knows every name that the first card of
// a machine of ours can get. Those that are not there do no harm: they are brought up when
// they appear.
func interfacesDHCP() string {
	var b strings.Builder
	b.WriteString("# Written by Leeward for a machine that was failed over.\nauto lo\niface lo inet loopback\n")
	for _, n := range cardNames() {
		fmt.Fprintf(&b, "\nallow-hotplug %s\niface %s inet dhcp\n", n, n)
	}
	return b.String()
}

func cardNames() (all []string) {
	for i := range 4 {
		all = append(all, fmt.Sprint("eth", i))
	}
	for i := 1; i <= 9; i++ {
		all = append(all, fmt.Sprint("ens", i), fmt.Sprint("enp0s", i))
	}
	return all
}

const ifcfgDHCP = `# Written by Leeward for a machine that was failed over.
DEVICE=eth0
TYPE=Ethernet
BOOTPROTO=dhcp
ONBOOT=yes
STARTMODE=auto
`

// network makes the machine ask for an address by DHCP. It returns whether it knows who
// manages the machine's network.
func (f *fixer) network() (known bool) {
	if all := f.glob("etc/netplan/*.yaml"); len(all) > 0 {
		known = true
		renderer := ""
		for _, p := range all {
			if text, ok := f.read(p); ok {
				if m := netplanRenderer.FindStringSubmatch(text); m != nil {
					renderer = m[1]
				}
			}
			f.moveAway(p)
		}
		f.create("etc/netplan/99-leeward.yaml", netplanDHCP(renderer), 0o600, "netplan: DHCP on every Ethernet card")
	}
	if len(f.glob("etc/systemd/network/*.network")) > 0 {
		known = true
		f.create("etc/systemd/network/00-leeward.network", networkdDHCP, 0o644, "systemd-networkd: DHCP on every Ethernet card")
	}
	if f.isDir("etc/NetworkManager/system-connections") {
		known = true
		f.create("etc/NetworkManager/system-connections/leeward.nmconnection", keyfileDHCP, 0o600, "NetworkManager: DHCP, before every other connection")
	}
	if f.exists("etc/network/interfaces") {
		known = true
		for _, p := range f.glob("etc/network/interfaces.d/*") {
			if !strings.HasSuffix(p, backupSuffix) {
				f.moveAway(p)
			}
		}
		f.replace("etc/network/interfaces", interfacesDHCP(), "ifupdown: DHCP on every Ethernet card")
	}
	for _, dir := range []string{"etc/sysconfig/network-scripts", "etc/sysconfig/network"} {
		moved := false
		for _, p := range f.glob(dir + "/ifcfg-*") {
			if p != dir+"/ifcfg-lo" {
				f.moveAway(p)
				moved = true
			}
		}
		known = known || moved
		// NetworkManager does it where there is one.
		if moved && !f.isDir("etc/NetworkManager/system-connections") {
			f.create(dir+"/ifcfg-eth0", ifcfgDHCP, 0o644, "ifcfg: DHCP on the first Ethernet card")
		}
	}
	// A rule that gives a name to a card that is not there makes the new one the second.
	for _, p := range f.glob("etc/udev/rules.d/*persistent-net*.rules") {
		f.moveAway(p)
	}
	return known
}
