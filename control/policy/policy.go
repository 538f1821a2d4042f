package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
)

// Default is the name of the policy for everything that no other names.
const Default = "default"

// Duration is a time.Duration that is written like 1m30s.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is no duration: use one like 5s, 15m or 2h", b)
	}
	*d = Duration(v)
	return nil
}

// String writes the duration without units that are zero.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Policy is how machines are protected.
type Policy struct {
	Name     string   `json:"name" yaml:"name"`
	Machines []string `json:"machines,omitempty" yaml:"machines,omitempty"` // it holds for; none in "default"
	Groups   []string `json:"groups,omitempty" yaml:"groups,omitempty"`

	RPO           Duration        `json:"rpo_threshold" yaml:"rpo_threshold"`   // health warns beyond it
	PointInterval Duration        `json:"point_interval" yaml:"point_interval"` // between crash-consistent points
	AppInterval   Duration        `json:"app_interval" yaml:"app_interval"`     // between application-consistent ones; 0: none
	FreezeLimit   Duration        `json:"freeze_limit" yaml:"freeze_limit"`     // longest freeze; an agent's own limit may be shorter
	Retention     vault.Retention `json:"retention" yaml:"retention"`
	CompressAt    string          `json:"compress_at" yaml:"compress_at"`             // agent or process-server
	Capture       string          `json:"capture,omitempty" yaml:"capture,omitempty"` // auto, trace or scan; empty: as each agent was started
	// StandbyInterval is how far copies of the disks in Azure may be behind the newest point;
	// 0: there are none.
	StandbyInterval Duration `json:"standby_interval,omitempty" yaml:"standby_interval,omitempty"`
	Throttle        []Window `json:"throttle,omitempty" yaml:"throttle,omitempty"` // of each machine
	// SiteThrottle bounds all machines of this control together, whatever policy holds
	// for them. Only the policy "default" may have it.
	SiteThrottle []Window `json:"site_throttle,omitempty" yaml:"site_throttle,omitempty"`
}

// Window bounds what a machine or site sends during a part of the week. Of windows that
// overlap the lowest rate holds.
type Window struct {
	Days string `json:"days,omitempty" yaml:"days,omitempty"` // like mon-fri or sat,sun; empty: all
	From string `json:"from" yaml:"from"`                     // HH:MM, in the time zone of control
	To   string `json:"to" yaml:"to"`                         // HH:MM; before From: past midnight
	Rate int64  `json:"bytes_per_second" yaml:"bytes_per_second"`
}

// New is what a policy is where nothing else is said.
func New(name string) Policy {
	return Policy{
		Name: name, RPO: Duration(5 * time.Minute), PointInterval: Duration(5 * time.Second), AppInterval: Duration(time.Hour),
		FreezeLimit: Duration(200 * time.Millisecond), Retention: vault.DefaultRetention, CompressAt: "agent",
	}
}

// Limits of a policy.
const (
	MinInterval    = Duration(time.Second)
	MaxInterval    = Duration(24 * time.Hour)
	MinAppInterval = Duration(time.Minute)
	MinStandby     = Duration(time.Minute)
	maxWindows     = 64
	maxNames       = 4096
)

// Validate names the field that cannot work and what to write instead.
func (p *Policy) Validate() error {
	if err := streams.ValidName("policy", p.Name); err != nil {
		return err
	}
	fail := func(field, format string, args ...any) error {
		return fmt.Errorf("policy %s: %s %s", p.Name, field, fmt.Sprintf(format, args...))
	}
	switch {
	case p.Name == Default && len(p.Machines)+len(p.Groups) > 0:
		return fail("machines", "and groups cannot be named in the policy %s: it holds for all that no other names", Default)
	case len(p.Machines) > maxNames || len(p.Groups) > maxNames:
		return fail("machines", "and groups are %d, at most %d each", len(p.Machines)+len(p.Groups), maxNames)
	case p.PointInterval < MinInterval || p.PointInterval > MaxInterval:
		return fail("point_interval", "is %v: use %v to %v", p.PointInterval, MinInterval, MaxInterval)
	case p.AppInterval != 0 && (p.AppInterval < MinAppInterval || p.AppInterval > 7*MaxInterval):
		return fail("app_interval", "is %v: use 0s for none, or at least %v", p.AppInterval, MinAppInterval)
	case p.RPO < p.PointInterval:
		return fail("rpo_threshold", "is %v, below point_interval %v: it would always be exceeded", p.RPO, p.PointInterval)
	case p.FreezeLimit < Duration(10*time.Millisecond) || p.FreezeLimit > Duration(10*time.Second):
		return fail("freeze_limit", "is %v: use 10ms to 10s", p.FreezeLimit)
	case p.StandbyInterval != 0 && (p.StandbyInterval < MinStandby || p.StandbyInterval > 30*MaxInterval):
		return fail("standby_interval", "is %v: use 0s for no copy, or %v to %v", p.StandbyInterval, MinStandby, 30*MaxInterval)
	case !slices.Contains([]string{"agent", "process-server"}, p.CompressAt):
		return fail("compress_at", "is %q: use agent or process-server", p.CompressAt)
	case !slices.Contains([]string{"", "auto", "trace", "scan"}, p.Capture):
		return fail("capture", "is %q: use auto, trace or scan, or leave it out", p.Capture)
	case len(p.Throttle) > maxWindows || len(p.SiteThrottle) > maxWindows:
		return fail("throttle", "and site_throttle have %d and %d windows, at most %d each", len(p.Throttle), len(p.SiteThrottle), maxWindows)
	case p.Name != Default && len(p.SiteThrottle) > 0:
		return fail("site_throttle", "is for all machines together: write it into the policy %s", Default)
	}
	for kind, names := range map[string][]string{"machine": p.Machines, "group": p.Groups} {
		for i, n := range names {
			if err := streams.ValidName(kind, n); err != nil {
				return fail(kind+"s", "%v", err)
			}
			if slices.Contains(names[:i], n) {
				return fail(kind+"s", "names %s twice", n)
			}
		}
	}
	for field, windows := range map[string][]Window{"throttle": p.Throttle, "site_throttle": p.SiteThrottle} {
		for i, w := range windows {
			if err := w.validate(); err != nil {
				return fail(field, "window %d: %v", i+1, err)
			}
		}
	}
	return nil
}

// Check makes sure that no machine or group is named by two policies.
func Check(all []Policy) error {
	seen := map[string]string{}
	for _, p := range all {
		for kind, names := range map[string][]string{"machine": p.Machines, "group": p.Groups} {
			for _, n := range names {
				if by, ok := seen[kind+" "+n]; ok && by != p.Name {
					return fmt.Errorf("%s %s is named by the policies %s and %s: take it out of one", kind, n, min(by, p.Name), max(by, p.Name))
				}
				seen[kind+" "+n] = p.Name
			}
		}
	}
	return nil
}

// For returns the policy of a machine that is in a group; group may be empty.
func For(all []Policy, machine, group string) Policy {
	def := New(Default)
	var byGroup *Policy
	for i, p := range all {
		switch {
		case machine != "" && slices.Contains(p.Machines, machine):
			return p
		case group != "" && slices.Contains(p.Groups, group):
			byGroup = &all[i]
		case p.Name == Default:
			def = p
		}
	}
	if byGroup != nil {
		return *byGroup
	}
	return def
}
