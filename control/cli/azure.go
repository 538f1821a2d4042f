package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/target/azure"
)

// azureFlags say where in Azure machines come up.
type azureFlags struct {
	given azure.Place
	file  string
}

func (f *azureFlags) add(c *cobra.Command) {
	fl, p := c.Flags(), &f.given
	fl.StringVar(&f.file, "azure-settings", "", "azure: `file` with settings, read here, instead of those of control")
	fl.StringVar(&p.Subscription, "subscription", "", "azure: id of the subscription")
	fl.StringVar(&p.ResourceGroup, "resource-group", "", "azure: resource group, which must exist")
	fl.StringVar(&p.Region, "region", "", "azure: region, e.g. westeurope")
	fl.StringVar(&p.Subnet, "subnet", "", "azure: VNET/SUBNET that a machine which is failed over goes into")
	fl.StringVar(&p.Size, "vm-size", "", "azure: size of the virtual machine (default: chosen by CPUs and memory)")
}

// place returns what was given, and complains if none of it was wanted.
func (f *azureFlags) place(wanted bool) (azure.Place, error) {
	p, err := azure.ReadPlace(f.file)
	if err != nil {
		return p, Usage("", "--azure-settings: %v", err)
	}
	p = f.given.Over(p)
	if !wanted && p != (azure.Place{}) {
		return p, Usage("", "settings of Azure belong to --target azure")
	}
	return p, nil
}

// azureCommand looks after what runs have left in Azure. It needs neither bus nor vault.
func (a *app) azureCommand() *cobra.Command {
	var f azureFlags
	ls := &cobra.Command{
		Use: "ls", Short: "List what failovers have made in a resource group, by its tag", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.made(cmd.Context(), &f, "")
			if err != nil {
				return err
			}
			return a.print(items("leeward.azure.v1", all), func(w io.Writer) { madeTable(w, all) })
		},
	}
	var confirm string
	rm := &cobra.Command{
		Use: "rm RUN", Short: "Remove what a failover has made, if its job is lost; others are cleaned up", Args: args("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := a.made(cmd.Context(), &f, args[0])
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return api.Errorf(api.CodeNotFound, "leeward azure ls", "there is nothing of run %s", args[0])
			}
			if confirm != args[0] {
				madeTable(a.Err, all)
				return api.Errorf(api.CodeRefused, "repeat it with --confirm "+args[0], "this ends machine %s of run %s and removes its disks: not confirmed", all[0].Machine, args[0])
			}
			p, err := f.place(true)
			if err != nil {
				return err
			}
			gone, err := azure.Remove(cmd.Context(), a.reach(p), args[0])
			if err != nil {
				return err
			}
			return a.print(items("leeward.azure.v1", gone), func(w io.Writer) { fmt.Fprintf(w, "%d resources of run %s are removed\n", len(gone), args[0]) })
		},
	}
	rm.Flags().StringVar(&confirm, "confirm", "", "`run` again")
	f.add(ls)
	f.add(rm)
	return noun("azure", "Look after what failovers have left in Azure", ls, rm)
}

// reach says how a place is reached.
func (a *app) reach(p azure.Place) azure.Config {
	if a.Azure != nil {
		return a.Azure(p)
	}
	return azure.Config{Place: p}
}

func (a *app) made(ctx context.Context, f *azureFlags, run string) ([]azure.Made, error) {
	p, err := f.place(true)
	if err != nil {
		return nil, err
	}
	return azure.List(ctx, a.reach(p), run)
}

func madeTable(w io.Writer, all []azure.Made) {
	if len(all) == 0 {
		fmt.Fprintln(w, "nothing that a failover made is there")
		return
	}
	row(w, "RUN", "MACHINE", "FOR", "BEGAN", "KIND", "NAME")
	for _, m := range all {
		what := "failover"
		if m.Test {
			what = "test"
		}
		row(w, m.Run, m.Machine, what, stamp(m.Began), m.Kind, m.Name)
	}
}
