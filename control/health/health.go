package health

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Level ranks the health of a machine.
type Level string

// The levels, from good to bad.
const (
	NotApplicable Level = "not-applicable" // nobody wants it protected now
	Healthy       Level = "healthy"
	Warning       Level = "warning"
	Critical      Level = "critical"
)

// Worse returns the worse of two levels.
func Worse(a, b Level) Level {
	if Rank(b) > Rank(a) {
		return b
	}
	return a
}

// Rank orders levels: 0 is healthy, higher is worse, not applicable is below.
func Rank(l Level) int { return slices.Index([]Level{Healthy, Warning, Critical}, l) }

// The kinds of event that health knows how to read. Agents, process servers and
// control publish them; any other kind is only shown.
const (
	Resync       = "resync"          // a disk is compared or sent again as a whole or in part
	Fenced       = "fenced"          // somebody else writes a disk's chain
	Fork         = "fork"            // a link contradicts the chain that is in the vault
	GroupAborted = "group-aborted"   // a group of machines has no common point because of this one
	PointAborted = "point-aborted"   // the agent gave a recovery point up, e.g. because a freeze took too long
	StoreFailed  = "store-failed"    // the vault's store refuses writes
	Abandoned    = "point-abandoned" // a marker will never become a point
)

// Condition is something that began with an event and was not seen to end.
type Condition struct {
	Kind  string // one of the kinds above
	Disk  string // empty if the whole machine
	Since time.Time
	Count int    // how often it happened since it began, at least 1
	What  string // of the last event
	Try   string
}

// Disk is what is known of one disk.
type Disk struct {
	Name      string
	Heartbeat time.Time // last renewal of the agent's lease; zero if never seen
	Receipt   time.Time // last progress in the vault; zero if none
}

// Machine is what is known of one machine.
type Machine struct {
	Name       string
	Since      time.Time // first heard of
	Point      time.Time // cut of the newest listed recovery point; zero if none
	App        time.Time // cut of the newest application-consistent one; zero if none
	Off        string    // why it is not to be protected now, e.g. it runs elsewhere; empty if it is
	Copy       bool      // it runs at the recovery site and is protected there: its keeper publishes, not its agent
	Trouble    string    // why the bus takes nothing of its agent now; empty if it does
	Disks      []Disk
	Conditions []Condition
}

// Thresholds says when a number becomes an issue.
type Thresholds struct {
	RPO             time.Duration // warn beyond it, critical beyond 4 times it
	Crash           time.Duration // critical when the newest point is older, whatever RPO says
	App             time.Duration // warn when the newest application-consistent point is older; 0: never
	Heartbeat       time.Duration // warn when a disk's agent is silent for longer
	HeartbeatLost   time.Duration // critical
	PointsAborted   int           // points given up in a row that are a warning
	PointsAbandoned int           // abandoned markers in a row that are a warning
}

// Default is what an operator who sets nothing gets.
func Default() Thresholds {
	return Thresholds{
		RPO: 5 * time.Minute, Crash: time.Hour, Heartbeat: time.Minute, HeartbeatLost: 15 * time.Minute,
		PointsAborted: 3, PointsAbandoned: 3,
	}
}

// Validate names the field that cannot work.
func (t Thresholds) Validate() error {
	if t.RPO < time.Second {
		return fmt.Errorf("rpo threshold is %v: use at least 1s", t.RPO)
	}
	if t.Heartbeat <= 0 || t.HeartbeatLost < t.Heartbeat {
		return fmt.Errorf("heartbeat thresholds are %v and %v: use two positive durations, the smaller first", t.Heartbeat, t.HeartbeatLost)
	}
	return nil
}

// Issue is one reason why a machine is not healthy.
type Issue struct {
	Code    string `json:"code"` // stable word, e.g. "rpo-exceeded"
	Level   Level  `json:"level"`
	Machine string `json:"machine"`
	Disk    string `json:"disk,omitempty"`
	Cause   string `json:"cause"`            // one sentence
	Remedy  string `json:"remedy,omitempty"` // what to do; empty if nothing but waiting helps
}

// Check returns the machine's level and its issues, the worst first.
func Check(now time.Time, m Machine, t Thresholds) (Level, []Issue) {
	if m.Off != "" {
		return NotApplicable, nil
	}
	var all []Issue
	all = append(all, rpo(now, m, t)...)
	if !m.Copy { // its points are cut at the hypervisor, and its agent is to be silent
		all = append(all, app(now, m, t)...)
		all = append(all, heartbeat(now, m, t)...)
	}
	if m.Trouble != "" && !m.Copy {
		all = append(all, Issue{
			Code: "bus-refuses", Level: Warning, Cause: "the bus takes no changes of this machine, they wait on it: " + m.Trouble,
			Remedy: "see the backlog: leeward status; it drains by itself when the vault takes writes (leeward event ls --kind store-failed)",
		})
	}
	for _, c := range m.Conditions {
		if m.Copy && (c.Kind == Fenced || c.Kind == GroupAborted) {
			continue // the old home is kept out, which is meant to be
		}
		if i, ok := condition(now, c, t); ok {
			all = append(all, i)
		}
	}
	level := Healthy
	for i := range all {
		all[i].Machine = m.Name
		level = Worse(level, all[i].Level)
	}
	slices.SortStableFunc(all, func(a, b Issue) int { return cmp.Compare(Rank(b.Level), Rank(a.Level)) })
	return level, all
}

func rpo(now time.Time, m Machine, t Thresholds) []Issue {
	if m.Point.IsZero() {
		level := Warning
		if now.Sub(m.Since) > 4*t.RPO && now.Sub(lastReceipt(m)) > 4*t.RPO {
			level = Critical // nothing is on its way either
		}
		return []Issue{{
			Code: "no-point", Level: level, Cause: "there is no recovery point yet",
			Remedy: "wait for the initial replication; see its progress with: leeward machine show " + m.Name,
		}}
	}
	age := now.Sub(m.Point)
	if age <= t.RPO {
		return nil
	}
	i := Issue{
		Code: "rpo-exceeded", Level: Warning,
		Cause:  fmt.Sprintf("the newest recovery point is %s old, the threshold is %s", short(age), short(t.RPO)),
		Remedy: "see that leeward-agent runs on the machine and reaches the server, and that the vault's store accepts writes",
	}
	if m.Copy {
		i.Remedy = "see that the machine runs here and its keeper reaches the bus (leeward failover show " + m.Name + "), and that the vault's store accepts writes; re-protect it again if need be"
	}
	if age > 4*t.RPO || t.Crash > 0 && age > max(t.Crash, t.RPO) {
		i.Level = Critical
	}
	return []Issue{i}
}

// app says that application-consistent points have ceased. A machine that never had
// one has no hooks for them; its points say that they are crash-consistent.
func app(now time.Time, m Machine, t Thresholds) []Issue {
	age := now.Sub(m.App)
	if t.App <= 0 || m.App.IsZero() || age <= t.App {
		return nil
	}
	return []Issue{{
		Code: "app-overdue", Level: Warning,
		Cause:  fmt.Sprintf("the newest application-consistent point is %s old, one is due every %s", short(age), short(t.App/2)),
		Remedy: "see why the hooks of leeward-agent fail (its log says so); crash-consistent points go on",
	}}
}

func lastReceipt(m Machine) time.Time {
	var last time.Time
	for _, d := range m.Disks {
		if d.Receipt.After(last) {
			last = d.Receipt
		}
	}
	return last
}

// heartbeat makes one issue of all silent disks: they share one agent.
func heartbeat(now time.Time, m Machine, t Thresholds) []Issue {
	var silent []string
	var longest time.Duration
	for _, d := range m.Disks {
		last := d.Heartbeat
		if last.IsZero() || d.Receipt.After(last) {
			last = d.Receipt
		}
		if last.IsZero() {
			last = m.Since
		}
		if age := now.Sub(last); age > t.Heartbeat {
			silent = append(silent, d.Name)
			longest = max(longest, age)
		}
	}
	if len(silent) == 0 {
		return nil
	}
	i := Issue{
		Code: "no-heartbeat", Level: Warning,
		Cause:  fmt.Sprintf("the agent has been silent for %s", short(longest)),
		Remedy: "start leeward-agent on the machine, or see why it cannot reach the server (its log says so)",
	}
	if longest > t.HeartbeatLost {
		i.Level = Critical
	}
	if len(silent) == 1 {
		i.Disk = silent[0]
	}
	return []Issue{i}
}

func condition(now time.Time, c Condition, t Thresholds) (Issue, bool) {
	i := Issue{Code: c.Kind, Level: Warning, Disk: c.Disk, Cause: c.What, Remedy: c.Try}
	since := short(now.Sub(c.Since))
	switch c.Kind {
	case Resync:
		i.Cause = fmt.Sprintf("a resync has been running for %s: %s", since, c.What)
	case StoreFailed:
		i.Level = Critical
		i.Cause = fmt.Sprintf("the vault has refused writes for %s: %s", since, c.What)
		i.Remedy = cmp.Or(c.Try, "see that the store is reachable and not full")
	case Fenced:
		i.Level = Critical
		i.Remedy = cmp.Or(c.Try, "stop the other agent that protects this disk, then restart the right one")
	case Fork:
		i.Level = Critical
		i.Remedy = cmp.Or(c.Try, "see that only one agent protects this disk")
	case PointAborted:
		if c.Count < t.PointsAborted {
			return i, false
		}
		i.Cause = fmt.Sprintf("%d recovery points in a row were given up, the last one: %s", c.Count, c.What)
		i.Remedy = cmp.Or(c.Try, "raise the agent's freeze limit, or mark at a quieter time")
	case GroupAborted:
		if c.Count < t.PointsAborted {
			return i, false
		}
		i.Cause = fmt.Sprintf("%d common points of its group in a row were given up, the last one: %s", c.Count, c.What)
	case Abandoned:
		if c.Count < t.PointsAbandoned {
			return i, false
		}
		i.Cause = fmt.Sprintf("%d recovery points in a row were abandoned, the last one: %s", c.Count, c.What)
		i.Remedy = cmp.Or(c.Try, "see the agent's log: it starts over more often than it cuts")
	default:
		return i, false
	}
	return i, true
}

// short writes a duration as an operator would say it.
func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
