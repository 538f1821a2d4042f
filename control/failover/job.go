package failover

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/control/target/hydrate"
	"github.com/leeward-dr/leeward/control/target/qemu"
	"github.com/leeward-dr/leeward/streams"
)

// The kinds of job.
const (
	TestFailover = "test-failover" // isolated, beside the machine that runs on
	RealFailover = "failover"      // instead of it, on a network
)

// The networks a machine can be brought up on.
const (
	Isolated = "isolated" // reaches nothing; only the port of its proof can be reached, from the host
	Open     = "open"     // reaches what the host reaches
	// Bridge begins the name of a bridge of the host, like bridge:br0: a machine among those
	// of its network. Only for what was failed over.
	Bridge = "bridge:"
)

// Whether a machine's disks are copied to where it runs, see package hydrate.
const (
	HydrateOn  = "on"
	HydrateOff = "off"
)

// Request asks for a machine to be brought up.
type Request struct {
	ID      string  `json:"request_id,omitempty"` // the same id twice is the same job; empty: always a new one
	Machine string  `json:"machine"`
	Point   string  `json:"point"`  // see Select
	Target  string  `json:"target"` // name of a target
	Options Options `json:"options"`
}

// Options is what a request may say about the machine, the probe and the target.
// Zero values mean: as the protected machine, or what the target does by default.
type Options struct {
	CPUs         int         `json:"cpus,omitempty"`
	MemoryBytes  int64       `json:"memory_bytes,omitempty"`
	Firmware     string      `json:"firmware,omitempty"` // "bios" or "uefi"
	Hardware     string      `json:"hardware,omitempty"` // qemu: "compatible" or "virtio"
	Fixup        string      `json:"fixup,omitempty"`    // qemu and azure: auto (default), off or always, see qemu.Fixup; in azure auto is always
	Serial       string      `json:"serial,omitempty"`   // see target.Probe
	Port         int         `json:"port,omitempty"`
	HTTP         string      `json:"http,omitempty"`
	TimeoutSecs  int         `json:"timeout_seconds,omitempty"` // of the probe; 0: 5 minutes
	Out          string      `json:"out,omitempty"`             // disk: file or directory to write
	Format       string      `json:"format,omitempty"`          // disk: raw, vhd, qcow2 or vmdk
	Hydrate      string      `json:"hydrate,omitempty"`         // qemu: copy the disks here behind the machine: on (default of a failover) or off (of a test)
	Libvirt      bool        `json:"libvirt,omitempty"`         // disk: describe the machine for libvirt beside its disks
	KeepEvidence bool        `json:"keep_evidence,omitempty"`   // keep what the probe saw in the history
	Azure        azure.Place `json:"azure,omitzero"`            // azure: what the settings of control do not say, or say otherwise
	Instance     string      `json:"instance,omitempty"`        // azure: what the agent in the copy calls itself; control says it
	Network      string      `json:"network,omitempty"`         // isolated, open or bridge:NAME; a test is always isolated, a failover open unless told otherwise
	Address      string      `json:"address,omitempty"`         // bridge: where the machine will be, for a proof by its port
}

// bridge is the bridge that the machine is to be attached to, "" if none.
func (o Options) bridge() string {
	name, ok := strings.CutPrefix(o.Network, Bridge)
	if !ok {
		return ""
	}
	return name
}

const defaultTimeout = 5 * time.Minute

func (o Options) probe() target.Probe {
	p := target.Probe{Serial: o.Serial, Port: o.Port, HTTP: o.HTTP, Timeout: time.Duration(o.TimeoutSecs) * time.Second}
	if p.Timeout == 0 {
		p.Timeout = defaultTimeout
	}
	return p
}

// Validate names the field of r that cannot work.
func (r Request) Validate() error {
	if err := streams.ValidName("machine", r.Machine); err != nil {
		return err
	}
	o := r.Options
	switch {
	case len(r.ID) > 128:
		return fmt.Errorf("request id has %d bytes, at most 128", len(r.ID))
	case r.Target == "":
		return fmt.Errorf("no target named")
	case o.Azure != azure.Place{} && r.Target != Cloud:
		return fmt.Errorf("settings of Azure belong to the target azure, not to %s", r.Target)
	case o.CPUs < 0 || o.CPUs > 1024:
		return fmt.Errorf("%d cpus: use 1 to 1024", o.CPUs)
	case o.MemoryBytes < 0:
		return fmt.Errorf("%d bytes of memory", o.MemoryBytes)
	case o.Firmware != "" && o.Firmware != "bios" && o.Firmware != "uefi":
		return fmt.Errorf("firmware %q: use bios or uefi", o.Firmware)
	case o.Hydrate != "" && o.Hydrate != HydrateOn && o.Hydrate != HydrateOff:
		return fmt.Errorf("hydrate %q: use on or off", o.Hydrate)
	case o.Fixup != "" && !slices.Contains([]string{string(qemu.FixupAuto), string(qemu.FixupOff), string(qemu.FixupAlways)}, o.Fixup):
		return fmt.Errorf("fix-ups %q: use auto, off or always", o.Fixup)
	case o.Port < 0 || o.Port > 65535:
		return fmt.Errorf("port %d: use 1 to 65535", o.Port)
	case o.Network != "" && o.Network != Isolated && o.Network != Open && o.bridge() == "":
		return fmt.Errorf("network %q: use isolated, open or bridge:NAME", o.Network)
	case o.bridge() != "" && r.Target != "qemu":
		return fmt.Errorf("network %q: only target qemu has bridges", o.Network)
	case o.Address != "" && net.ParseIP(o.Address) == nil:
		return fmt.Errorf("address %q: use an IP address", o.Address)
	case o.Address != "" && o.bridge() == "":
		return fmt.Errorf("address %s belongs to network bridge:NAME", o.Address)
	case o.bridge() != "" && o.Port != 0 && o.Address == "":
		return fmt.Errorf("a proof by port %d on %s needs the address that the machine will have there", o.Port, o.Network)
	case o.TimeoutSecs < 0 || o.TimeoutSecs > 86400:
		return fmt.Errorf("timeout of %d seconds: use 1 to 86400", o.TimeoutSecs)
	}
	if r.Target == Files {
		return nil // files prove nothing, and need not
	}
	p := o.probe()
	return p.Check()
}

// Job is one failover and all that is known of it. It is what job.json holds.
type Job struct {
	ID          string    `json:"id"`
	Kind        string    `json:"kind"` // test-failover or failover
	Request     Request   `json:"request"`
	State       State     `json:"state"`
	Point       string    `json:"point,omitempty"` // id of the chosen point
	PointTime   time.Time `json:"point_time,omitzero"`
	Consistency string    `json:"consistency,omitempty"`
	Started     time.Time `json:"started"`
	Updated     time.Time `json:"updated"`
	Ended       time.Time `json:"ended,omitzero"` // when the verdict was known
	Revision    uint64    `json:"revision"`       // grows with every change
	Stages      []Stage   `json:"stages"`
	Progress    *Progress `json:"progress,omitempty"`
	Error       string    `json:"error,omitempty"`
	Code        string    `json:"code,omitempty"`  // of the error: not_found, refused or failed
	Notes       string    `json:"notes,omitempty"` // what people noted of it
	Result      *Result   `json:"result,omitempty"`
	// Hydration says how much of the disks is where the machine runs; nil if they stay in the
	// vault.
	Hydration *hydrate.Status `json:"hydration,omitempty"`
	Directory string          `json:"directory,omitempty"` // everything the job leaves; empty when cleaned
}

// Stage is one state that a job went through.
type Stage struct {
	State  State     `json:"state"`
	At     time.Time `json:"at"`
	Detail string    `json:"detail,omitempty"`
}

// Progress says how far the present step is.
type Progress struct {
	What  string `json:"what"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// Result is the evidence of a run.
type Result struct {
	Alive            bool     `json:"alive"`
	Evidence         []string `json:"evidence,omitempty"`
	FirstLineSeconds float64  `json:"first_line_seconds,omitempty"`
	BootSeconds      float64  `json:"boot_seconds,omitempty"`
	GuestReadBytes   int64    `json:"guest_read_bytes"`
	VaultReadBytes   int64    `json:"vault_read_bytes"` // fetched from the store
	RTOSeconds       float64  `json:"rto_seconds"`      // from the request to the proof
	Screen           string   `json:"screen,omitempty"`
	SerialLog        string   `json:"serial_log,omitempty"`
	PortOnHost       int      `json:"port_on_host,omitempty"`
	Fixups           []string `json:"fixups,omitempty"` // what was changed on the copy's disks so that it boots here
}

func resultOf(r *target.Result) *Result {
	return &Result{
		Alive: r.Alive, Evidence: r.Evidence, FirstLineSeconds: r.FirstLine.Seconds(), BootSeconds: r.Boot.Seconds(),
		GuestReadBytes: r.BytesRead, Screen: r.Screen, SerialLog: r.SerialLog, PortOnHost: r.PortOnHost, Fixups: r.Fixups,
	}
}

// advance takes j through e at a time, noting detail.
func (j *Job) advance(e Event, at time.Time, detail string) error {
	next, err := Step(j.State, e)
	if err != nil {
		return fmt.Errorf("job %s: %w", j.ID, err)
	}
	if next != j.State || e == Adopt || len(j.Stages) == 0 {
		j.Stages = append(j.Stages, Stage{State: next, At: at, Detail: detail})
	}
	j.State, j.Updated, j.Progress = next, at, nil
	j.Revision++
	if next.Waiting() && j.Ended.IsZero() {
		j.Ended = at
	}
	return nil
}

// clone copies j so that readers do not see later changes.
func (j *Job) clone() Job {
	c := *j
	c.Stages = append([]Stage(nil), j.Stages...)
	if j.Progress != nil {
		p := *j.Progress
		c.Progress = &p
	}
	if j.Result != nil {
		r := *j.Result
		c.Result = &r
	}
	if j.Hydration != nil {
		h := *j.Hydration
		c.Hydration = &h
	}
	return c
}

// History is the job as its line of history keeps it: what was tested and how it
// ended, nothing of the guest unless the operator asked.
func (j *Job) History() Job {
	c := j.clone()
	c.Directory, c.Progress, c.Hydration = "", nil, nil
	if c.Result != nil {
		c.Result.Screen, c.Result.SerialLog, c.Result.PortOnHost = "", "", 0
		if !j.Request.Options.KeepEvidence {
			c.Result.Evidence = nil
		}
	}
	return c
}
