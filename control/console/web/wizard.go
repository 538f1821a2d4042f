package web

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/azure"
)

func (w *Web) wizardRoutes(m *http.ServeMux) {
	for _, of := range []string{"/machines/{machine}", "/groups/{group}"} {
		w.show(m, of+"/failover", w.wizard)
		w.do(m, of+"/failover", "", w.begin)
		w.show(m, of+"/ask/{kind}", w.asking)
		w.do(m, of+"/ask/{kind}", "", w.asked)
	}
	w.show(m, "/groups/{group}", w.group)
	w.do(m, "/points/{id}/pin", "point.pin", func(a *ask) (string, error) {
		_, err := a.Pin(a, a.r.PathValue("id"), strings.TrimSpace(a.r.PostForm.Get("name")))
		return backTo(a, "pin"), err
	})
	w.do(m, "/points/{id}/unpin", "point.unpin", func(a *ask) (string, error) {
		_, err := a.Unpin(a, a.r.PathValue("id"))
		return backTo(a, "unpin"), err
	})
}

// backTo is the page of the machine that a form names.
func backTo(a *ask, did string) string {
	return "/machines/" + url.PathEscape(a.r.PostForm.Get("machine")) + "?did=" + did
}

// The kinds of failover that the wizard offers.
const (
	kindTest    = "test"
	kindReal    = "failover"
	kindPlanned = "planned"
)

// fields are what the steps of the wizard ask for, by step; the address carries them.
var fields = [][]string{
	{"kind"}, {"point", "time"},
	{
		"target", "out", "format", "network", "bridge", "address", "cpus", "memory", "firmware", "hardware", "fixup", "hydrate", "serial", "port", "http", "timeout",
		"subscription", "resource_group", "region", "subnet", "size", "quiesce", "shutdown",
	},
}

// wizardPage is one step.
type wizardPage struct {
	*api.Machine // of a group: its first member, for what it has
	On           *subject
	Step         int // 1 kind, 2 point, 3 where, 4 look and confirm
	Kind         string
	Form         url.Values // everything that was said so far
	Carry        []field    // what this step must carry on
	Back         string
	Choices      []choice
	Problem      string // with what was said
	Phase        life.Phase
	Fenced       bool // it cannot be failed over in this phase
	// Of the last step.
	Checks    []api.LifeCheck
	Good      bool
	Loss      *choice
	RequestID string
	Where     []field  // what was chosen, said once more
	Names     []string // the steps
}

// networkBridge is the choice of a bridge, whose name is a field of its own.
const networkBridge = "bridge"

type field struct{ Name, Value string }

// choice is a recovery point to choose.
type choice struct {
	Value, Name, About string
	Time               time.Time
	Loss               float64 // seconds
	Checked, None      bool
}

func (w *Web) wizard(a *ask) (*view, error) {
	p, err := w.wizardOf(a)
	if err != nil {
		return nil, err
	}
	q := a.r.URL.Query()
	if !slices.Contains([]string{kindTest, kindReal, kindPlanned}, p.Kind) || p.On.Group && p.Test() {
		p.Kind = ""
	}
	p.Step, _ = strconv.Atoi(q.Get("step"))
	switch { // what is known already need not be asked
	case p.Kind == "":
		p.Step = 1
	case p.Step < 1 && q.Get("point") != "":
		p.Step = 3
	case p.Step < 1:
		p.Step = 2
	}
	p.Step = min(p.Step, 4)
	if p.Step > 2 && q.Get("point") == "" {
		p.Step = 2
	}
	if p.Step == 4 {
		if err := w.look(a, p); err != nil {
			if api.AsError(err).Code != api.CodeUsage {
				return nil, err
			}
			p.Step, p.Problem = 3, err.Error()
		}
	}
	p.carry(a.r.URL.Path)
	title := map[string]string{kindTest: "Test failover of ", kindReal: "Fail over ", kindPlanned: "Fail over "}[p.Kind]
	return &view{page: "wizard", section: p.On.section(), title: cmp.Or(title, "Fail over ") + p.On.Name, data: p, still: true}, nil
}

// wizardOf gathers what every step needs.
func (w *Web) wizardOf(a *ask) (*wizardPage, error) {
	on, err := a.subject()
	if err != nil {
		return nil, err
	}
	form := a.r.URL.Query()
	if a.r.Method == http.MethodPost {
		form = a.r.PostForm
	}
	p := &wizardPage{On: on, Kind: form.Get("kind"), Form: form, Names: []string{"What", "Recovery point", "Where", "Look and confirm"}}
	if p.Machine, err = a.Client.Machine(a, on.Members[0]); err != nil {
		return nil, err
	}
	for _, l := range on.Lives {
		if _, err := l.Clone().Step(life.Event{Kind: life.Start}); err != nil && !p.Fenced {
			p.Fenced, p.Phase = true, l.Phase
		}
	}
	points, err := a.pointsOf(on)
	if err != nil {
		return nil, err
	}
	p.Choices = choicesOf(points, form.Get("point"), time.Now())
	return p, nil
}

// Get is what was said of a field.
func (p *wizardPage) Get(name string) string { return p.Form.Get(name) }

// Test reports whether nothing happens to the machine that runs.
func (p *wizardPage) Test() bool { return p.Kind == kindTest }

// More reports whether something was said of what is folded away.
func (p *wizardPage) More() bool {
	return p.Get("target") == failover.Cloud || slices.ContainsFunc([]string{"fixup", "hydrate", "subscription", "resource_group", "region", "subnet", "size"}, func(n string) bool { return p.Get(n) != "" })
}

// carry makes what this step hands on, and the way back.
func (p *wizardPage) carry(path string) {
	back := url.Values{}
	for i, names := range fields {
		for _, n := range names {
			v := p.Form.Get(n)
			if v == "" {
				continue
			}
			back.Set(n, v)
			if i+1 != p.Step {
				p.Carry = append(p.Carry, field{n, v})
			}
		}
	}
	if p.Step > 1 {
		back.Set("step", strconv.Itoa(p.Step-1))
		if p.Step == 2 {
			back.Del("kind")
		}
		p.Back = path + "?" + back.Encode()
	}
}

// choicesOf offers the words of package failover, then single points: the newest, the
// application-consistent and the pinned ones.
func choicesOf(points []api.Point, chosen string, now time.Time) []choice {
	var out []choice
	find := func(ok func(api.Point) bool) *api.Point {
		for i := range slices.Backward(points) {
			if ok(points[i]) {
				return &points[i]
			}
		}
		return nil
	}
	add := func(value, name, about string, p *api.Point) {
		c := choice{Value: value, Name: name, About: about, Checked: value == chosen, None: p == nil}
		if p != nil {
			c.Time, c.Loss = p.Time, max(now.Sub(p.Time).Seconds(), 0)
		}
		out = append(out, c)
	}
	app := func(p api.Point) bool { return p.Consistency == "app" }
	multi := func(p api.Point) bool { return len(p.Machines) > 1 }
	add(failover.Latest, "Latest", "the newest point once everything that has arrived is processed: least is lost", find(func(api.Point) bool { return true }))
	add(failover.LatestApp, "Latest application-consistent", "the newest for which applications were made ready", find(app))
	if find(multi) != nil {
		add(failover.LatestMulti, "Latest of several machines", "the newest that its group was cut at together", find(multi))
	}
	n, apps, found := 0, 0, chosen == "" || slices.ContainsFunc(out, func(c choice) bool { return c.Checked })
	for i, p := range slices.Backward(points) {
		wanted := p.ID == chosen || p.Pinned || n < 10 || app(p) && apps < 10
		if !wanted {
			continue
		}
		n++
		if app(p) {
			apps++
		}
		found = found || p.ID == chosen
		about := p.Consistency + "-consistent"
		if multi(p) {
			about += fmt.Sprintf(", of %d machines", len(p.Machines))
		}
		if p.Pinned {
			about += ", pinned"
		}
		add(p.ID, cmp.Or(p.Name, stamp(p.Time)), about, &points[i])
	}
	if !found && chosen != "time" {
		add(chosen, chosen, "as the address says", nil)
		out[len(out)-1].None = false
	}
	if chosen == "" && len(out) > 0 {
		out[0].Checked = true
	}
	return out
}

// order reads what was said into an order.
func (p *wizardPage) order() (life.Order, error) {
	g := func(n string) string { return strings.TrimSpace(p.Form.Get(n)) }
	o := life.Order{
		Point: g("point"), Target: cmp.Or(g("target"), "qemu"), Planned: p.Kind == kindPlanned, Shutdown: g("shutdown"),
		Options: failover.Options{Firmware: g("firmware"), Hardware: g("hardware"), Serial: g("serial"), HTTP: g("http"), Out: g("out"), Format: g("format"), Network: g("network")},
	}
	usage := func(format string, args ...any) (life.Order, error) {
		return o, api.Errorf(api.CodeUsage, "", format, args...)
	}
	if o.Planned {
		o.Quiesce = g("quiesce")
	}
	switch {
	case p.Test():
		o.Options.Network = "" // a test is always isolated
	case o.Options.Network == networkBridge:
		o.Options.Network, o.Options.Address = failover.Bridge+g("bridge"), g("address")
	}
	switch o.Target {
	case failover.QEMU:
		o.Options.Fixup, o.Options.Hydrate = g("fixup"), g("hydrate")
	case failover.Cloud:
		o.Options.Fixup = g("fixup")
		o.Options.Azure = azure.Place{Subscription: g("subscription"), ResourceGroup: g("resource_group"), Region: g("region"), Subnet: g("subnet"), Size: g("size")}
		o.Options.Firmware, o.Options.Hardware = "", ""
	}
	if o.Point == "time" {
		at, err := time.Parse("2006-01-02T15:04", g("time"))
		if err != nil {
			return usage("the time of the recovery point is %q: write it like 2026-11-30T02:15, in UTC", g("time"))
		}
		o.Point = at.UTC().Format(time.RFC3339)
	}
	for name, to := range map[string]*int{"cpus": &o.Options.CPUs, "port": &o.Options.Port, "timeout": &o.Options.TimeoutSecs} {
		if g(name) == "" {
			continue
		}
		var err error
		if *to, err = strconv.Atoi(g(name)); err != nil {
			return usage("%s is %q: write a number", name, g(name))
		}
	}
	if mib := g("memory"); mib != "" {
		n, err := strconv.ParseInt(mib, 10, 32)
		if err != nil || n <= 0 {
			return usage("memory is %q: write a number of MiB", mib)
		}
		o.Options.MemoryBytes = n << 20
	}
	if o.Target == "disk" {
		if !p.Test() {
			return usage("a failover to files is not possible: only machines in QEMU or in Azure are kept")
		}
		if o.Options.Out == "" {
			return usage("the target disk needs a file to write, on the server")
		}
		o.Options.Serial, o.Options.HTTP, o.Options.Port = "", "", 0
	} else {
		o.Options.Out, o.Options.Format = "", ""
		if o.Options.Serial == "" && o.Options.Port == 0 {
			return usage("say how it is seen that the machine lives: a serial line, or a port that accepts")
		}
	}
	if o.Target == failover.Cloud && p.Test() && o.Options.Serial == "" {
		return usage("a test in Azure is reached by nothing but its serial line: say which line proves that the machine lives")
	}
	r := failover.Request{Machine: p.Machine.Machine, Point: o.Point, Target: o.Target, Options: o.Options}
	if err := r.Validate(); err != nil {
		return usage("%w", err)
	}
	return o, nil
}

// whereOf says where an order leads, for who is about to confirm it.
func whereOf(o life.Order) (all []field) {
	say := func(name string, values ...string) {
		values = slices.DeleteFunc(values, func(s string) bool { return s == "" })
		if len(values) > 0 {
			all = append(all, field{name, strings.Join(values, ", ")})
		}
	}
	q := o.Options
	switch o.Target {
	case failover.Files:
		say("Target", "files: "+q.Out, cmp.Or(q.Format, "raw"))
		return all
	case failover.Cloud:
		z := q.Azure
		say("Target", "Azure", z.Region, z.ResourceGroup, z.Subnet, z.Size)
	default:
		say("Target", "QEMU/KVM on the server")
		name, bridged := strings.CutPrefix(q.Network, failover.Bridge)
		if bridged {
			say("Network", "bridge "+name, q.Address)
		} else {
			say("Network", map[string]string{"": failover.Isolated, failover.Isolated: failover.Isolated, failover.Open: "open: what the server reaches"}[q.Network])
		}
	}
	port := ""
	if q.Port != 0 {
		port = "port " + strconv.Itoa(q.Port)
	}
	serial := ""
	if q.Serial != "" {
		serial = "a serial line that matches " + q.Serial
	}
	say("Seen to live by", serial, port, q.HTTP)
	return all
}

// look says what would happen: it has control look at point, disks and target.
func (w *Web) look(a *ask, p *wizardPage) error {
	o, err := p.order()
	if err != nil {
		return err
	}
	p.RequestID, p.Good, p.Where = rand.Text(), true, whereOf(o)
	for i := range p.Choices {
		if c := &p.Choices[i]; c.Value == p.Form.Get("point") {
			p.Loss = c
		}
	}
	if !a.may("failover.validate") || o.Target == failover.Files {
		return nil
	}
	v, err := a.ValidateLife(a, p.On.request(o))
	if err != nil {
		return err
	}
	for _, c := range v.Checks {
		if p.Test() && (c.Check == "phase" || c.Check == "source" || c.Check == "loss") {
			continue // a test does nothing to the source
		}
		p.Checks = append(p.Checks, c)
		p.Good = p.Good && c.Result != api.Bad
	}
	return nil
}

// begin does what the wizard has gathered.
func (w *Web) begin(a *ask) (string, error) {
	p, err := w.wizardOf(a)
	if err != nil {
		return "", err
	}
	if p.On.Group && p.Test() {
		return "", api.Errorf(api.CodeUsage, "write a plan, and test that", "a group is not tested as one")
	}
	o, err := p.order()
	if err != nil {
		return "", err
	}
	id := a.r.PostForm.Get("request")
	if p.Test() {
		if err := a.must("failover.test"); err != nil {
			return "", err
		}
		j, err := a.Test(a, failover.Request{ID: id, Machine: p.On.Name, Point: o.Point, Target: o.Target, Options: o.Options})
		if err != nil {
			return "", err
		}
		return "/jobs/" + url.PathEscape(j.ID), nil
	}
	if err := a.must("failover.start"); err != nil {
		return "", err
	}
	if f := a.r.PostForm; f.Get("found") != "" && f.Get("anyway") == "" {
		return "", api.Errorf(api.CodeRefused, "change what was marked, or tick that it shall be done although it would fail",
			"control found that a failover of %s would fail", p.On.Name)
	}
	o.ID = id
	q := p.On.request(o)
	q.Confirm = a.r.PostForm.Get("confirm")
	if _, err := a.AskLife(a, life.Start, q); err != nil {
		return "", err
	}
	return p.On.Path + "?did=life", nil
}
