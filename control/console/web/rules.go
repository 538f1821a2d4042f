package web

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/policy"
)

func (w *Web) ruleRoutes(m *http.ServeMux) {
	w.show(m, "/policies", w.policies)
	w.show(m, "/policy-editor", w.policyEditor)
	w.do(m, "/policy-editor", "policy.apply", w.applyPolicies)
	w.do(m, "/policies/{name}/delete", "policy.delete", func(a *ask) (string, error) {
		return "/policies?did=policy-rm", a.DeletePolicy(a, a.r.PathValue("name"))
	})
	w.do(m, "/groups", "group.change", func(a *ask) (string, error) {
		f := a.r.PostForm
		_, err := a.ChangeGroup(a, api.GroupChange{Group: strings.TrimSpace(f.Get("group")), Create: true, Add: f["machine"]})
		return "/policies?did=group", err
	})
	w.do(m, "/groups/{name}", "group.change", func(a *ask) (string, error) {
		f, c := a.r.PostForm, api.GroupChange{Group: a.r.PathValue("name")}
		if v := f.Get("add"); v != "" {
			c.Add = []string{v}
		}
		if v := f.Get("remove"); v != "" {
			c.Remove = []string{v}
		}
		_, err := a.ChangeGroup(a, c)
		return "/policies?did=group", err
	})
	w.do(m, "/groups/{name}/delete", "group.delete", func(a *ask) (string, error) {
		return "/policies?did=group-rm", a.DeleteGroup(a, a.r.PathValue("name"))
	})
}

// rulesPage is groups and policies.
type rulesPage struct {
	Groups   []api.Group
	Policies []api.Policy
	Free     []string // machines that are in no group
}

func (w *Web) policies(a *ask) (*view, error) {
	p := &rulesPage{}
	var err error
	if p.Groups, err = a.Groups(a); err != nil {
		return nil, err
	}
	if p.Policies, err = a.Policies(a); err != nil {
		return nil, err
	}
	machines, err := a.Machines(a, api.Query{})
	if err != nil {
		return nil, err
	}
	in := map[string]bool{}
	for _, g := range p.Groups {
		for _, m := range g.Members {
			in[m] = true
		}
	}
	for _, m := range machines {
		if !in[m.Machine] {
			p.Free = append(p.Free, m.Machine)
		}
	}
	return &view{page: "policies", section: "rules", title: "Groups and policies", data: p, still: true}, nil
}

func policyForm(text, problem string) *view {
	return &view{page: "editor", section: "rules", title: "Edit groups and policies", still: true, data: editor{
		Title: "Edit groups and policies", About: "All of it is written, or nothing. What is left out stays as it is.", Action: "/policy-editor", Back: "/policies", Text: text, Problem: problem,
	}}
}

func (w *Web) policyEditor(a *ask) (*view, error) {
	d := &policy.Document{}
	policies, err := a.Policies(a)
	if err != nil {
		return nil, err
	}
	for _, p := range policies {
		d.Policies = append(d.Policies, p.Value)
	}
	groups, err := a.Groups(a)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		d.Groups = append(d.Groups, policy.Group{Name: g.Group, Members: g.Members})
	}
	b, err := policy.Export(d)
	if err != nil {
		return nil, err
	}
	return policyForm(string(b), ""), nil
}

func (w *Web) applyPolicies(a *ask) (string, error) {
	text := a.r.PostForm.Get("text")
	d, err := policy.Parse([]byte(text))
	if err == nil {
		_, err = a.ApplyPolicies(a, *d)
	}
	if err != nil {
		return "", &again{policyForm(text, err.Error()), http.StatusBadRequest}
	}
	return "/policies?" + url.Values{"did": {"policy"}}.Encode(), nil
}
