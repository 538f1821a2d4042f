package drill

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/plan"
)

// Schemas of documents.
const (
	ReportSchema = "leeward.drill-report.v1"
	SignedSchema = "leeward.signed-drill-report.v1"
)

// MaxScreen is the largest picture that a report holds, in bytes, and MaxScreens what all
// of a report's may have together; beyond that only the SHA-256 is there.
const (
	MaxScreen  = 128 << 10
	MaxScreens = 512 << 10
	maxReport  = 900 << 10 // a message of the bus holds it
)

// Report says what happened in a drill.
type Report struct {
	Schema      string    `json:"schema"`
	ID          string    `json:"id"` // of the run
	Drill       string    `json:"drill"`
	Plan        string    `json:"plan"`
	PlanVersion uint64    `json:"plan_version"`
	Vault       string    `json:"vault"` // id
	Version     string    `json:"version"`
	Started     time.Time `json:"started"`
	Ended       time.Time `json:"ended"`
	Passed      bool      `json:"passed"`
	Why         string    `json:"why,omitempty"` // it did not pass
	Machines    []Machine `json:"machines"`
	Steps       []Step    `json:"steps"`
}

// Machine is how one machine came up.
type Machine struct {
	Machine     string    `json:"machine"`
	Job         string    `json:"job,omitempty"`
	Point       string    `json:"point,omitempty"`
	PointTime   time.Time `json:"point_time,omitzero"`
	Consistency string    `json:"consistency,omitempty"`
	AgeSeconds  float64   `json:"age_seconds"` // of the point when the job began: what would have been lost
	Alive       bool      `json:"alive"`
	Evidence    []string  `json:"evidence,omitempty"`
	Error       string    `json:"error,omitempty"`
	BootSeconds float64   `json:"boot_seconds"`
	RTOSeconds  float64   `json:"rto_seconds"`
	VaultBytes  int64     `json:"vault_read_bytes"`
	ScreenSHA   string    `json:"screen_sha256,omitempty"`
	Screen      []byte    `json:"screen,omitempty"` // PNG
}

// Step is a script, request or question of the plan.
type Step struct {
	Step   string         `json:"step"`
	State  plan.TaskState `json:"state"`
	Result string         `json:"result,omitempty"`
	Error  string         `json:"error,omitempty"`
}

// NewReport says what became of a run and of the jobs that it began. screen returns the
// picture of a job, nil if there is none.
func NewReport(d *Drill, run *plan.Run, jobs []failover.Job, screen func(*failover.Job) []byte) *Report {
	r := &Report{
		Schema: ReportSchema, ID: run.ID, Drill: d.Name, Plan: run.Plan, PlanVersion: run.Version,
		Started: run.Started.UTC(), Ended: run.Ended.UTC(), Passed: run.State == plan.RunDone, Machines: []Machine{}, Steps: []Step{},
	}
	if !r.Passed {
		r.Why = fmt.Sprintf("the run is %s", run.State)
		if run.Error != "" {
			r.Why += ": " + run.Error
		}
	}
	newest := map[string]*failover.Job{}
	for i := range jobs {
		if was := newest[jobs[i].Request.Machine]; was == nil || was.Started.Before(jobs[i].Started) {
			newest[jobs[i].Request.Machine] = &jobs[i]
		}
	}
	left := MaxScreens
	for i := range run.Tasks {
		t := &run.Tasks[i]
		if t.Machine == nil {
			r.Steps = append(r.Steps, Step{Step: t.ID + " " + t.Name(), State: t.State, Result: t.Result, Error: t.Error})
			continue
		}
		m := Machine{Machine: t.Machine.Machine, Error: t.Error}
		if j := newest[m.Machine]; j != nil {
			m.fill(j)
			if b := screen(j); b != nil {
				m.ScreenSHA = fmt.Sprintf("%x", sha256.Sum256(b))
				if len(b) <= MaxScreen && len(b) <= left {
					m.Screen, left = b, left-len(b)
				}
			}
		}
		r.Machines = append(r.Machines, m)
	}
	return r
}

func (m *Machine) fill(j *failover.Job) {
	m.Job, m.Point, m.PointTime, m.Consistency = j.ID, j.Point, j.PointTime.UTC(), j.Consistency
	if j.PointTime.IsZero() {
		m.PointTime = time.Time{}
	} else {
		m.AgeSeconds = j.Started.Sub(j.PointTime).Seconds()
	}
	if m.Error == "" {
		m.Error = j.Error
	}
	if x := j.Result; x != nil {
		m.Alive, m.Evidence, m.BootSeconds, m.RTOSeconds, m.VaultBytes = x.Alive, x.Evidence, x.BootSeconds, x.RTOSeconds, x.VaultReadBytes
	}
}

// Signed is a report with its signature: Ed25519 (RFC 8032) over the report as this
// package encodes it, so that formatting the file anew does not matter.
type Signed struct {
	Schema    string `json:"schema"`
	Report    Report `json:"report"`
	Key       string `json:"public_key"` // hex
	Signature string `json:"signature"`  // hex
}

// ErrForged means that a report is not what the holder of the key has signed.
var ErrForged = errors.New("the signature is not of this report")

// Sign signs a report.
func Sign(key ed25519.PrivateKey, r *Report) (*Signed, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode report %s: %w", r.ID, err)
	}
	if len(b) > maxReport {
		return nil, fmt.Errorf("report %s has %d bytes, at most %d", r.ID, len(b), maxReport)
	}
	return &Signed{SignedSchema, *r, hex.EncodeToString(key.Public().(ed25519.PublicKey)), hex.EncodeToString(ed25519.Sign(key, b))}, nil
}

// Parse reads a signed report strictly. It verifies nothing.
func Parse(b []byte) (*Signed, error) {
	if len(b) > 4*maxReport {
		return nil, fmt.Errorf("a report of %d bytes: at most %d", len(b), 4*maxReport)
	}
	s := new(Signed)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("not a signed report: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("not a signed report: there is more behind it")
	}
	if s.Schema != SignedSchema || s.Report.Schema != ReportSchema {
		return nil, fmt.Errorf("schemas are %q and %q: this program knows %s and %s", s.Schema, s.Report.Schema, SignedSchema, ReportSchema)
	}
	return s, nil
}

// Verify returns ErrForged if the report was changed after it was signed. With key, a
// public key in hex, it must be signed by that; without, any will do, and whoever made
// the file may have made the key.
func (s *Signed) Verify(key string) error {
	public, err := hex.DecodeString(s.Key)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: its key is no Ed25519 key", ErrForged)
	}
	if key != "" && key != s.Key {
		return fmt.Errorf("%w: it is signed by key %s, not by %s", ErrForged, s.Key, key)
	}
	sig, err := hex.DecodeString(s.Signature)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	b, err := json.Marshal(&s.Report)
	if err != nil {
		return fmt.Errorf("encode report %s: %w", s.Report.ID, err)
	}
	if !ed25519.Verify(public, b, sig) {
		return fmt.Errorf("%w: report %s was changed after it was signed", ErrForged, s.Report.ID)
	}
	return nil
}
