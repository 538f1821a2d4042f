package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/policy"
)

func (a *app) policyCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List the policies", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Policies(ctx)
			if err != nil {
				return err
			}
			return a.printPolicies(all)
		}),
	}
	show := &cobra.Command{
		Use: "show POLICY", Short: "Show a policy", Args: args("POLICY"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			p, err := c.Policy(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(policyDocument{"leeward.policy.v1", p}, func(w io.Writer) { _ = yaml.NewEncoder(w).Encode(p.Value) }) // a table's writer takes everything
		}),
	}
	set := &cobra.Command{
		Use: "set POLICY FIELD=VALUE…", Short: "Change fields of a policy, or make it; it holds at once", Args: some("POLICY", "FIELD=VALUE"),
		Long: "Change fields of a policy, or make it; it holds at once. Fields are those of leeward policy show, e.g.\n\n" +
			"  leeward policy set gold machines=[db,web] point_interval=1s retention=all=4h,daily=30",
		RunE: a.with(a.policySet),
	}
	apply := &cobra.Command{
		Use: "apply FILE", Short: "Write the policies and groups of a YAML file, all or none; others stay", Args: args("FILE"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error { return a.policyApply(ctx, c, args[0]) }),
	}
	imp := &cobra.Command{
		Use: "import FILE", Short: "The same as apply: what export wrote", Args: args("FILE"), RunE: apply.RunE,
	}
	export := &cobra.Command{
		Use: "export", Short: "Write all policies and groups as YAML", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			d := &policy.Document{}
			all, err := c.Policies(ctx)
			if err != nil {
				return err
			}
			for _, p := range all {
				d.Policies = append(d.Policies, p.Value)
			}
			groups, err := c.Groups(ctx)
			if err != nil {
				return err
			}
			for _, g := range groups {
				d.Groups = append(d.Groups, policy.Group{Name: g.Group, Members: g.Members})
			}
			b, err := policy.Export(d)
			if err != nil {
				return err
			}
			_, err = a.Out.Write(b)
			return err
		}),
	}
	del := &cobra.Command{
		Use: "delete POLICY", Short: "Remove a policy; the default one holds then", Args: args("POLICY"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error { return c.DeletePolicy(ctx, args[0]) }),
	}
	a.careful(del, func(p string) string { return "remove policy " + p + ": the default one holds then" })
	return noun("policy", "How machines and groups are protected", ls, show, set, apply, export, imp, del)
}

func (a *app) printPolicies(all []api.Policy) error {
	return a.print(items("leeward.policies.v1", all), func(w io.Writer) {
		row(w, "POLICY", "HOLDS FOR", "POINT EVERY", "APP EVERY", "RPO THRESHOLD", "FREEZE LIMIT", "RETENTION", "THROTTLE")
		for _, e := range all {
			p := e.Value
			holds := strings.Join(append(append([]string{}, p.Machines...), p.Groups...), " ")
			if p.Name == policy.Default {
				holds = "all others"
			}
			row(w, p.Name, holds, p.PointInterval, p.AppInterval, p.RPO, p.FreezeLimit, p.Retention, fmt.Sprintf("%d windows", len(p.Throttle)))
		}
	})
}

// policySet writes FIELD=VALUE as YAML over what the policy is.
func (a *app) policySet(ctx context.Context, c *api.Client, args []string) error {
	p := policy.New(args[0])
	old, err := c.Policy(ctx, args[0])
	switch {
	case err == nil:
		p = old.Value
	case api.AsError(err).Code != api.CodeNotFound:
		return err
	}
	for _, f := range args[1:] {
		field, value, ok := strings.Cut(f, "=")
		if !ok || field == "name" {
			return Usage("leeward policy show "+args[0], "%q is no FIELD=VALUE of a policy", f)
		}
		if err := policy.Strict([]byte(field+": "+value+"\n"), &p); err != nil {
			return Usage("leeward policy show "+args[0], "%s: %v", field, err)
		}
	}
	if err := p.Validate(); err != nil {
		return Usage("", "%v", err)
	}
	all, err := c.ApplyPolicies(ctx, policy.Document{Policies: []policy.Policy{p}})
	if err != nil {
		return err
	}
	return a.printPolicies(all)
}

func (a *app) policyApply(ctx context.Context, c *api.Client, file string) error {
	b, err := a.readFile(file)
	if err != nil {
		return err
	}
	d, err := policy.Parse(b)
	if err != nil {
		return Usage("", "%s: %v", file, err)
	}
	all, err := c.ApplyPolicies(ctx, *d)
	if err != nil {
		return err
	}
	return a.printPolicies(all)
}

// readFile reads a file that the operator named; "-" is standard input.
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(a.In)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, Usage("", "%v", err)
	}
	return b, nil
}
