package wire

import (
	"slices"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// elements is 9 for the marker of a barrier, which says how the barrier went.
func (m *Marker) elements() int {
	if m.barrier() {
		return 9
	}
	return 7
}

func (m *Marker) barrier() bool {
	return m.Skew != 0 || m.Took != 0 || slices.ContainsFunc(m.Members, func(k Member) bool { return k.Frozen != 0 })
}

func (m *Marker) size() int {
	n := roomy
	for _, k := range m.Members {
		n += roomy + 128*len(k.Disks)
	}
	return n
}

func (m *Marker) write(b []byte) []byte {
	b = addArray(b, m.elements())
	b = addUint(b, uint64(m.Version))
	b = addText(b, m.ID)
	b = addText(b, m.Group)
	b = addInt(b, m.Time)
	b = addText(b, string(m.Consistency))
	b = addInt(b, m.Frozen)
	b = addArray(b, len(m.Members))
	long := m.barrier()
	for i := range m.Members {
		b = m.Members[i].write(b, long)
	}
	if long {
		b = addInt(addInt(b, m.Skew), m.Took)
	}
	return b
}

func (m *Marker) read(r *reader) {
	long := r.b[0] == msgpcode.FixedArrayLow|9
	m.ID, m.Group = r.text(), r.text()
	m.Time, m.Consistency, m.Frozen = r.i64(), Consistency(r.text()), r.i64()
	if n := r.array(MaxMembers, 11); n > 0 {
		m.Members = make([]Member, n)
	}
	disks := MaxMembers
	for i := range m.Members {
		m.Members[i].read(r, disks, long)
		disks -= len(m.Members[i].Disks)
	}
	if long {
		if m.Skew, m.Took = r.i64(), r.i64(); r.err == nil && !m.barrier() {
			r.fail("a barrier's marker that says nothing of it")
		}
	}
}

func (k *Member) write(b []byte, long bool) []byte {
	n := 3
	if long {
		n = 4
	}
	b = addText(addArray(b, n), k.Machine)
	f := &k.Facts
	b = addText(addArray(b, 7), f.Host)
	b = addUint(b, uint64(f.CPUs))
	b = addUint(b, f.Memory)
	b = addText(b, f.Firmware)
	b = addText(b, f.OS)
	b = addText(b, f.Kernel)
	b = addArray(b, len(f.NICs))
	for _, n := range f.NICs {
		b = addText(b, n)
	}
	b = addArray(b, len(k.Disks))
	for _, d := range k.Disks {
		b = addText(addArray(b, 6), d.Disk)
		b = addUint(b, d.Epoch)
		b = addUint(b, d.Number)
		b = addUint(b, d.Size)
		b = addBool(b, d.Frozen)
		b = addText(b, d.Note)
	}
	if long {
		b = addInt(b, k.Frozen)
	}
	return b
}

// read reads a member with at most disks disks.
func (k *Member) read(r *reader, disks int, long bool) {
	if long {
		r.fields(4)
	} else {
		r.fields(3)
	}
	k.Machine = r.text()
	f := &k.Facts
	r.fields(7)
	f.Host, f.CPUs, f.Memory = r.text(), r.u32(), r.u64()
	f.Firmware, f.OS, f.Kernel = r.text(), r.text(), r.text()
	if n := r.array(MaxNICs, 1); n > 0 {
		f.NICs = make([]string, n)
	}
	for i := range f.NICs {
		f.NICs[i] = r.text()
	}
	if n := r.array(disks, 7); n > 0 {
		k.Disks = make([]DiskCut, n)
	}
	for i := range k.Disks {
		d := &k.Disks[i]
		r.fields(6)
		d.Disk = r.text()
		d.Epoch, d.Number, d.Size = r.u64(), r.u64(), r.u64()
		d.Frozen, d.Note = r.bool(), r.text()
	}
	if long {
		k.Frozen = r.i64()
	}
}

func (m *Receipt) elements() int { return 13 }
func (m *Receipt) size() int     { return roomy + len(m.Reason) }

func (m *Receipt) write(b []byte) []byte {
	b = addArray(b, m.elements())
	b = addUint(b, uint64(m.Version))
	b = addText(b, m.Machine)
	b = addText(b, m.Disk)
	b = addUint(b, m.Epoch)
	b = addUint(b, m.Number)
	b = addBytes(b, m.Hash[:])
	b = addUint(b, m.BaseEpoch)
	b = addUint(b, m.BaseNumber)
	b = addUint(b, m.Size)
	b = addBytes(b, m.Digest[:])
	b = addBool(b, m.Resend)
	b = addText(b, m.Reason)
	return addInt(b, m.Time)
}

func (m *Receipt) read(r *reader) {
	m.Machine, m.Disk = r.text(), r.text()
	m.Epoch, m.Number = r.u64(), r.u64()
	r.fill(m.Hash[:])
	m.BaseEpoch, m.BaseNumber, m.Size = r.u64(), r.u64(), r.u64()
	r.fill(m.Digest[:])
	m.Resend, m.Reason, m.Time = r.bool(), r.text(), r.i64()
}

func (m *Event) elements() int { return 8 }
func (m *Event) size() int     { return roomy + len(m.Disk) + len(m.What) + len(m.Try) }

func (m *Event) write(b []byte) []byte {
	b = addArray(b, m.elements())
	b = addUint(b, uint64(m.Version))
	b = addInt(b, m.Time)
	for _, s := range []string{m.Machine, m.Disk, m.Kind, string(m.Severity), m.What, m.Try} {
		b = addText(b, s)
	}
	return b
}

func (m *Event) read(r *reader) {
	m.Time = r.i64()
	m.Machine, m.Disk, m.Kind = r.text(), r.text(), r.text()
	m.Severity, m.What, m.Try = Severity(r.text()), r.text(), r.text()
}

func (m *SumsRequest) elements() int { return 4 }
func (m *SumsRequest) size() int     { return 32 }

func (m *SumsRequest) write(b []byte) []byte {
	b = addUint(addArray(b, m.elements()), uint64(m.Version))
	return addUint(addUint(addUint(b, m.Epoch), m.Start), uint64(m.Count))
}

func (m *SumsRequest) read(r *reader) { m.Epoch, m.Start, m.Count = r.u64(), r.u64(), r.u32() }

func (m *SumsReply) elements() int { return 5 }
func (m *SumsReply) size() int     { return 64 + len(m.Sums) + len(m.Error) }

func (m *SumsReply) write(b []byte) []byte {
	b = addUint(addArray(b, m.elements()), uint64(m.Version))
	b = addUint(addUint(b, m.Epoch), m.Start)
	return addText(addBytes(b, m.Sums), m.Error)
}

func (m *SumsReply) read(r *reader) {
	m.Epoch, m.Start, m.Sums, m.Error = r.u64(), r.u64(), r.bytes(MaxSums*16), r.text()
}
