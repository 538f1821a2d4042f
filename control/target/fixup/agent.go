package fixup

import (
	"fmt"
	"slices"
	"strings"
)

// Agent is how the agent in the copy is to go on: nobody but it sees what is written there.
type Agent struct {
	Machine  string `json:"machine"`
	Instance string `json:"instance"` // that the fence will let through
	Server   string `json:"server"`   // URL of the bus, as it is reached from there
}

const (
	agentUnit = "leeward-agent.service"
	agentEnv  = "etc/leeward/agent.env"
	copyEnv   = "etc/leeward/failover.env"
)

// unit reports whether the machine has our agent as a service.
func (f *fixer) unit() bool {
	for _, dir := range []string{"etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		if f.exists(dir + "/" + agentUnit) {
			return true
		}
	}
	return false
}

// quietAgent keeps an agent of ours in the copy from starting: the source is fenced, so it
// would publish nothing, but it would ask for it and complain.
func (f *fixer) quietAgent() {
	if f.unit() {
		f.create("etc/systemd/system/"+agentUnit+".d/failover.conf",
			"# Written by Leeward for a machine that was failed over: its host protects it.\n[Unit]\nConditionPathExists=!/"+recordFile+"\n",
			0o644, "leeward-agent does not start in the copy")
	}
}

// callAgent tells an agent of ours how to go on in the copy: under the name that the fence
// will let through, and with the disks that its file systems are on, whatever those are
// called there.
func (f *fixer) callAgent(a *Agent) {
	env, ok := f.read(agentEnv)
	if !ok || !f.unit() {
		f.note("no agent is installed in the machine (/%s and its unit): it cannot be re-protected where it comes up", agentEnv)
		f.quietAgent()
		return
	}
	args := append(otherArgs(env), "--machine", a.Machine)
	for i, name := range f.devices.disks {
		link := f.devices.known(i)
		if link == "" {
			// A machine of which one disk were missing would come home as it never was.
			f.note("disk %s holds nothing that tells which it is (no file system of its own, no volume of LVM, no partition that is on no other disk): "+
				"the machine cannot be re-protected where it comes up", name)
			f.quietAgent()
			return
		}
		args = append(args, "--disk", "on:/dev/disk/"+link+"="+name)
	}
	f.create(copyEnv, fmt.Sprintf("# Written by Leeward for a machine that was failed over.\nLEEWARD_INSTANCE=%s\nLEEWARD_SERVER=%s\nLEEWARD_DISKS_FILE=\nLEEWARD_AGENT_ARGS=\"%s\"\n",
		a.Instance, a.Server, strings.Join(args, " ")), 0o600, "leeward-agent: how it goes on where the machine comes up")
	f.create("etc/systemd/system/"+agentUnit+".d/failover.conf",
		"# Written by Leeward for a machine that was failed over.\n[Service]\nEnvironmentFile=/"+copyEnv+"\n", 0o644, "leeward-agent goes on as "+a.Instance)
}

// otherArgs returns what the agent was told beside its machine and its disks.
func otherArgs(env string) (args []string) {
	const key = "LEEWARD_AGENT_ARGS="
	for line := range strings.Lines(env) {
		v, ok := strings.CutPrefix(strings.TrimSpace(line), key)
		if !ok {
			continue
		}
		args = nil
		all := strings.Fields(strings.Trim(v, `"'`))
		for i := 0; i < len(all); i++ {
			switch name, _, whole := strings.Cut(all[i], "="); name {
			case "--disk", "--disks-file", "--machine", "--server", "--instance":
				if !whole {
					i++
				}
			case "--take-over":
			default:
				args = append(args, all[i])
			}
		}
	}
	return args
}

// known returns the link below /dev/disk that leads to a disk, whatever that is called; "" if
// there is none.
func (d *devices) known(disk int) string {
	others := map[string]bool{}
	for i := range d.disks {
		if i != disk {
			for _, link := range d.links(i) {
				others[strings.ToLower(link)] = true
			}
		}
	}
	for _, link := range d.links(disk) {
		if !others[strings.ToLower(link)] { // a partition table that was copied for a RAID has copied names
			return link
		}
	}
	return ""
}

// links are those to a disk: first of a file system, best of one that only Linux makes; then
// of a volume of LVM; then of a partition, whatever is in it.
func (d *devices) links(disk int) []string {
	var fs, other, volumes, parts []string
	for _, x := range d.all {
		if x.disk != disk {
			continue
		}
		switch {
		case x.uuid == "" || x.joined: // on several disks, perhaps
		case x.kind != "vfat" && x.kind != "swap":
			fs = append(fs, "by-uuid/"+x.uuid)
		default:
			other = append(other, "by-uuid/"+x.uuid)
		}
		if x.volume != "" {
			volumes = append(volumes, "by-id/lvm-pv-uuid-"+x.volume)
		}
		if x.partID != "" {
			parts = append(parts, "by-partuuid/"+x.partID)
		}
	}
	return slices.Concat(fs, other, volumes, parts)
}
