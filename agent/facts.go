package agent

import (
	"bufio"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/streams/wire"
)

// readFacts gathers what is needed to build a machine like this one. What cannot be
// read is left empty: facts help a failover, they never stop a replication.
func readFacts() wire.Facts {
	f := wire.Facts{CPUs: uint32(runtime.NumCPU()), Firmware: "bios"}
	f.Host, _ = os.Hostname()
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		f.Firmware = "uefi"
	}
	f.Memory = memory("/proc/meminfo")
	f.OS = prettyName("/etc/os-release")
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		f.Kernel = strings.TrimSpace(string(b))
	}
	nics, err := net.Interfaces()
	if err != nil {
		return f
	}
	for _, n := range nics {
		if len(n.HardwareAddr) > 0 && n.Flags&net.FlagLoopback == 0 && len(f.NICs) < 64 {
			f.NICs = append(f.NICs, n.Name+" "+n.HardwareAddr.String())
		}
	}
	return f
}

// memory reads MemTotal of a meminfo file, in bytes.
func memory(path string) uint64 {
	kib, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value(path, "MemTotal:")), " kB"), 10, 64)
	return kib << 10
}

func prettyName(path string) string { return clip(strings.Trim(value(path, "PRETTY_NAME="), `"`)) }

// value returns what follows prefix on the first line that has it.
func value(path, prefix string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), prefix); ok {
			return v
		}
	}
	return ""
}
