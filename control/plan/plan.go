package plan

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/streams"
)

// Schema names the document.
const Schema = "leeward.plan.v1"

// Plan is the document.
type Plan struct {
	Schema string  `json:"schema" yaml:"schema"`
	Name   string  `json:"name" yaml:"name"`
	About  string  `json:"about,omitempty" yaml:"about,omitempty"`
	Point  string  `json:"point,omitempty" yaml:"point,omitempty"` // for all machines; default latest
	Target Target  `json:"target,omitempty" yaml:"target,omitempty"`
	Stages []Stage `json:"stages" yaml:"stages"`
}

// Target is where machines are brought up, unless a machine says otherwise.
type Target struct {
	Kind string `json:"kind,omitempty" yaml:"kind,omitempty"` // qemu or disk; default qemu
	Out  string `json:"out,omitempty" yaml:"out,omitempty"`   // disk: directory on the server, a file or directory for each machine
}

// Stage is a number of machines that come up at the same time.
type Stage struct {
	Name     string    `json:"name" yaml:"name"`
	Before   []Action  `json:"before,omitempty" yaml:"before,omitempty"`
	Machines []Machine `json:"machines,omitempty" yaml:"machines,omitempty"`
	After    []Action  `json:"after,omitempty" yaml:"after,omitempty"`
}

// Machine is one machine to bring up.
type Machine struct {
	Machine string          `json:"machine" yaml:"machine"`
	Point   string          `json:"point,omitempty" yaml:"point,omitempty"`
	Serial  string          `json:"serial,omitempty" yaml:"serial,omitempty"` // proof of life: a serial line that matches
	Port    int             `json:"port,omitempty" yaml:"port,omitempty"`     // proof of life: this TCP port accepts
	Timeout policy.Duration `json:"timeout,omitempty" yaml:"timeout,omitempty"`
	Retries int             `json:"retries,omitempty" yaml:"retries,omitempty"`
	OnError string          `json:"on_error,omitempty" yaml:"on_error,omitempty"`
	// Home says, for a run in mode failback, where each disk is to be written: its name, and
	// a path on the host of control.
	Home map[string]string `json:"home,omitempty" yaml:"home,omitempty"`
}

// Action is a step before or after the machines. It is exactly one of Script, HTTP
// and Ask.
type Action struct {
	Name    string          `json:"name" yaml:"name"`
	Script  *Script         `json:"script,omitempty" yaml:"script,omitempty"`
	HTTP    *HTTP           `json:"http,omitempty" yaml:"http,omitempty"`
	Ask     string          `json:"ask,omitempty" yaml:"ask,omitempty"`   // a question that a person answers with yes or no
	Only    []string        `json:"only,omitempty" yaml:"only,omitempty"` // modes in which it is done; default all
	Timeout policy.Duration `json:"timeout,omitempty" yaml:"timeout,omitempty"`
	Retries int             `json:"retries,omitempty" yaml:"retries,omitempty"`
	OnError string          `json:"on_error,omitempty" yaml:"on_error,omitempty"`
}

// Script is run by /bin/sh on the server of control, or over SSH on another host.
// It finds LEEWARD_PLAN, LEEWARD_RUN, LEEWARD_MODE and LEEWARD_STAGE in its
// environment.
type Script struct {
	Run string `json:"run" yaml:"run"`
	SSH string `json:"ssh,omitempty" yaml:"ssh,omitempty"` // user@host[:port]; keys are ssh's own
}

// HTTP is a request that must be answered with a status of 2xx.
type HTTP struct {
	Method string `json:"method,omitempty" yaml:"method,omitempty"` // default POST
	URL    string `json:"url" yaml:"url"`
	Body   string `json:"body,omitempty" yaml:"body,omitempty"`
}

// What to do when a step has failed and its retries are used up.
const (
	Stop     = "stop"     // the run fails; what runs is left as it is
	Continue = "continue" // go on; the run ends with warnings
	Ask      = "ask"      // wait for a person: retry, continue or stop
)

// The modes of a run.
const (
	Test     = "test"
	Failover = "failover"
	Failback = "failback"
)

// Modes lists the modes.
var Modes = []string{Test, Failover, Failback}

// Limits of a plan.
const (
	maxStages   = 64
	maxMachines = 4096
	maxActions  = 64 // before, or after, one stage
	maxText     = 64 << 10
	maxRetries  = 10

	// DefaultTimeout is how long a script or request may take.
	DefaultTimeout = 5 * time.Minute
	// DefaultBoot is how long a machine may take to show life.
	DefaultBoot = 10 * time.Minute
	maxTimeout  = 7 * 24 * time.Hour
)

// ReadyFor returns what a run in a mode lacks: a failback must know where disks are.
func (p *Plan) ReadyFor(mode string) error {
	if mode != Failback {
		return nil
	}
	for _, s := range p.Stages {
		for _, m := range s.Machines {
			if len(m.Home) == 0 {
				return fmt.Errorf("plan %s does not say where the disks of machine %s are at home: add home: {DISK: PATH}", p.Name, m.Machine)
			}
		}
	}
	return nil
}

// Parse reads a plan, strictly.
func Parse(b []byte) (*Plan, error) {
	p := new(Plan)
	if err := policy.Strict(b, p); err != nil {
		return nil, err
	}
	return p, p.Validate()
}

// Validate names what cannot work, all of it.
func (p *Plan) Validate() error {
	c := &check{plan: p.Name}
	if p.Schema != Schema {
		c.add("schema is %q: write schema: %s", p.Schema, Schema)
	}
	if err := streams.ValidName("plan", p.Name); err != nil {
		c.add("%v", err)
	}
	if p.Target.Kind != "" && p.Target.Kind != "qemu" && p.Target.Kind != "disk" && p.Target.Kind != "azure" {
		c.add("target kind is %q: use qemu, disk or azure", p.Target.Kind)
	}
	if (p.Target.Kind == "disk") != (p.Target.Out != "") || p.Target.Out != "" && !strings.HasPrefix(p.Target.Out, "/") {
		c.add("target out is %q: write an absolute directory for the kind disk, and nothing for others", p.Target.Out)
	}
	if len(p.Stages) == 0 || len(p.Stages) > maxStages {
		c.add("%d stages: write 1 to %d", len(p.Stages), maxStages)
	}
	machines, stages := map[string]bool{}, map[string]bool{}
	for _, s := range p.Stages {
		if err := streams.ValidName("stage", s.Name); err != nil {
			c.add("%v", err)
		}
		if stages[s.Name] {
			c.add("two stages are called %s", s.Name)
		}
		stages[s.Name] = true
		c.stage(&s, machines)
	}
	if len(machines) > maxMachines {
		c.add("%d machines, at most %d", len(machines), maxMachines)
	}
	return errors.Join(c.bad...)
}

type check struct {
	plan string
	bad  []error
}

func (c *check) add(format string, args ...any) {
	if len(c.bad) < 20 {
		c.bad = append(c.bad, fmt.Errorf("plan %s: %s", c.plan, fmt.Sprintf(format, args...)))
	}
}

func (c *check) stage(s *Stage, machines map[string]bool) {
	if len(s.Machines)+len(s.Before)+len(s.After) == 0 {
		c.add("stage %s does nothing", s.Name)
	}
	if len(s.Before) > maxActions || len(s.After) > maxActions {
		c.add("stage %s has %d and %d steps, at most %d before and after", s.Name, len(s.Before), len(s.After), maxActions)
	}
	for _, m := range s.Machines {
		if err := streams.ValidName("machine", m.Machine); err != nil {
			c.add("stage %s: %v", s.Name, err)
		}
		if machines[m.Machine] {
			c.add("machine %s is named twice", m.Machine)
		}
		machines[m.Machine] = true
		if m.Port < 0 || m.Port > 65535 {
			c.add("machine %s: port is %d", m.Machine, m.Port)
		}
		for disk, path := range m.Home {
			if err := streams.ValidName("disk", disk); err != nil {
				c.add("machine %s, home: %v", m.Machine, err)
			}
			if path == "" || len(path) > 4096 {
				c.add("machine %s, home: the path of disk %s has %d bytes, want 1 to 4096", m.Machine, disk, len(path))
			}
		}
		c.rules("machine "+m.Machine, m.Timeout, m.Retries, m.OnError)
	}
	for _, a := range slices.Concat(s.Before, s.After) {
		c.action(s.Name, &a)
	}
}

func (c *check) action(stage string, a *Action) {
	where := "stage " + stage + ", step " + a.Name
	if a.Name == "" || len(a.Name) > 200 {
		c.add("stage %s: a step needs a name of at most 200 characters", stage)
	}
	n := 0
	if s := a.Script; s != nil {
		n++
		if strings.TrimSpace(s.Run) == "" || len(s.Run) > maxText {
			c.add("%s: run has %d bytes: write 1 to %d", where, len(s.Run), maxText)
		}
		if s.SSH != "" && (strings.HasPrefix(s.SSH, "-") || strings.ContainsAny(s.SSH, " \t\n'\"") || !strings.Contains(s.SSH, "@")) {
			c.add("%s: ssh is %q: write user@host or user@host:port", where, s.SSH)
		}
	}
	if h := a.HTTP; h != nil {
		n++
		u, err := url.Parse(h.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			c.add("%s: url is %q: write http://… or https://…", where, h.URL)
		}
		if !slices.Contains([]string{"", "GET", "POST", "PUT", "DELETE", "PATCH"}, h.Method) {
			c.add("%s: method is %q", where, h.Method)
		}
		if len(h.Body) > maxText {
			c.add("%s: body has %d bytes, at most %d", where, len(h.Body), maxText)
		}
	}
	if a.Ask != "" {
		n++
		if len(a.Ask) > 1024 {
			c.add("%s: the question has %d bytes, at most 1024", where, len(a.Ask))
		}
	}
	if n != 1 {
		c.add("%s: write exactly one of script, http and ask", where)
	}
	for _, m := range a.Only {
		if !slices.Contains(Modes, m) {
			c.add("%s: only names %q: use %s", where, m, strings.Join(Modes, ", "))
		}
	}
	c.rules(where, a.Timeout, a.Retries, a.OnError)
}

func (c *check) rules(where string, timeout policy.Duration, retries int, onError string) {
	if timeout < 0 || time.Duration(timeout) > maxTimeout {
		c.add("%s: timeout is %v: use at most %v", where, timeout, maxTimeout)
	}
	if retries < 0 || retries > maxRetries {
		c.add("%s: retries is %d: use 0 to %d", where, retries, maxRetries)
	}
	if !slices.Contains([]string{"", Stop, Continue, Ask}, onError) {
		c.add("%s: on_error is %q: use stop, continue or ask (with retries for trying again)", where, onError)
	}
}

// Machines lists the machines in the order of the plan.
func (p *Plan) Machines() []string {
	var all []string
	for _, s := range p.Stages {
		for _, m := range s.Machines {
			all = append(all, m.Machine)
		}
	}
	return all
}
