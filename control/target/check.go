package target

import (
	"errors"
	"fmt"
	"time"
)

// SectorSize is what the size of every disk must be a multiple of, in bytes.
const SectorSize = 512

// Check says what is wrong with m, whatever the target.
func (m *Machine) Check() error {
	if m.Name == "" {
		return errors.New("the machine has no name")
	}
	if m.Firmware != "bios" && m.Firmware != "uefi" {
		return fmt.Errorf("machine %s: firmware %q is neither bios nor uefi", m.Name, m.Firmware)
	}
	if m.CPUs < 0 || m.Memory < 0 {
		return fmt.Errorf("machine %s: %d CPUs and %d bytes of memory cannot be", m.Name, m.CPUs, m.Memory)
	}
	if len(m.Disks) == 0 {
		return fmt.Errorf("machine %s has no disks", m.Name)
	}
	for _, d := range m.Disks {
		if s := d.Size(); s <= 0 || s%SectorSize != 0 {
			return fmt.Errorf("machine %s: disk %s has %d bytes, which is no multiple of %d", m.Name, d.Name(), s, SectorSize)
		}
	}
	return nil
}

// Check says what is wrong with p: a probe that asks for nothing proves nothing.
func (p *Probe) Check() error {
	switch {
	case p.Serial == "" && p.Port == 0:
		return errors.New("the probe asks for nothing: give a serial line or a port to wait for")
	case p.HTTP != "" && p.Port == 0:
		return fmt.Errorf("the probe asks for HTTP %s but on no port", p.HTTP)
	case p.HTTP != "" && p.HTTP[0] != '/':
		return fmt.Errorf("the probe's HTTP path %q does not start with /", p.HTTP)
	case p.Port < 0 || p.Port > 65535:
		return fmt.Errorf("the probe's port %d is none", p.Port)
	case p.Timeout < 0 || p.Timeout > 24*time.Hour:
		return fmt.Errorf("the probe's timeout %v is not between 0 and 24 hours", p.Timeout)
	}
	return nil
}
