package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// removals is how often something is asked to go: what it belongs to may take minutes to
// let go of it (a network interface three, after a machine that failed).
const removals = 24

// remove removes all that a run may have made, the last first. What does not go does not
// keep the rest from going.
func (r *Run) remove(ctx context.Context) error {
	now := r.b.now()
	p, x := now.Place, remover{r.c, r.b}
	err := x.machine(ctx, now.base())
	err = errors.Join(err, x.network(ctx, p.network("networkInterfaces/"+now.nic())))
	for i := range now.Disks {
		err = errors.Join(err, r.dropDisk(ctx, i))
		err = errors.Join(err, x.patiently(ctx, func(ctx context.Context) error { return r.letGo(ctx, i) }))
		if p.Via == Import {
			err = errors.Join(err, x.patiently(ctx, func(ctx context.Context) error { return r.dropBlob(ctx, i) }))
		}
	}
	if now.Isolated {
		err = errors.Join(err, x.network(ctx, p.network("virtualNetworks/"+now.net())), x.network(ctx, p.network("networkSecurityGroups/"+now.nsg())))
	}
	return err
}

func (r *Run) dropDisk(ctx context.Context, i int) error {
	if err := (remover{r.c, r.b}).disk(ctx, r.b.disk(i)); err != nil {
		return err
	}
	return r.b.dropSignature(i)
}

// remover removes resources by name. What is not there is no error.
type remover struct {
	c *cloud
	k tokens
}

// patiently tries until something is gone.
func (x remover) patiently(ctx context.Context, drop func(context.Context) error) (err error) {
	for range removals {
		if err = drop(ctx); err == nil || missing(err) {
			return nil
		}
		if refused(err) || !pause(ctx, x.c.cfg.stay) {
			break
		}
	}
	return err
}

// network removes a resource of a network by its id.
func (x remover) network(ctx context.Context, id string) error {
	return x.patiently(ctx, func(ctx context.Context) error {
		_, err := await(ctx, x.c, x.k, "remove "+tail(id), x.c.begin(http.MethodDelete, id, networkVersion, nil))
		return err
	})
}

// machine removes a virtual machine. Its disks and its network interface stay.
func (x remover) machine(ctx context.Context, name string) error {
	return x.patiently(ctx, func(ctx context.Context) error {
		_, err := await(ctx, x.c, x.k, "remove virtual machine "+name, func(ctx context.Context, token string) (*runtime.Poller[armcompute.VirtualMachinesClientDeleteResponse], error) {
			return x.c.vms.BeginDelete(ctx, x.c.place.ResourceGroup, name, &armcompute.VirtualMachinesClientBeginDeleteOptions{ResumeToken: token})
		})
		return err
	})
}

// disk removes a disk, in whatever state it is.
func (x remover) disk(ctx context.Context, name string) error {
	return x.patiently(ctx, func(ctx context.Context) error {
		state, err := x.c.state(ctx, name)
		if err != nil || state == "" {
			return err
		}
		if state == armcompute.DiskStateActiveUpload || state == armcompute.DiskStateActiveSAS {
			if err := x.revoke(ctx, name); err != nil {
				return err
			}
		}
		_, err = await(ctx, x.c, x.k, "remove disk "+name, func(ctx context.Context, token string) (*runtime.Poller[armcompute.DisksClientDeleteResponse], error) {
			return x.c.disks.BeginDelete(ctx, x.c.place.ResourceGroup, name, &armcompute.DisksClientBeginDeleteOptions{ResumeToken: token})
		})
		return err
	})
}

// revoke closes a disk: nobody can write it any more but the machine that it is attached to.
func (x remover) revoke(ctx context.Context, name string) error {
	_, err := await(ctx, x.c, x.k, "close disk "+name, func(ctx context.Context, token string) (*runtime.Poller[armcompute.DisksClientRevokeAccessResponse], error) {
		return x.c.disks.BeginRevokeAccess(ctx, x.c.place.ResourceGroup, name, &armcompute.DisksClientBeginRevokeAccessOptions{ResumeToken: token})
	})
	if missing(err) {
		return nil
	}
	return err
}

// made removes something that was listed.
func (x remover) made(ctx context.Context, m Made) error {
	if !strings.HasPrefix(strings.ToLower(m.ID), strings.ToLower(x.c.place.group())+"/") {
		return fmt.Errorf("azure: %s is not in resource group %s", m.ID, x.c.place.ResourceGroup)
	}
	switch order(m.Kind) {
	case 0:
		return x.machine(ctx, m.Name)
	case 2:
		return x.disk(ctx, m.Name)
	case 1, 3, 4:
		return x.network(ctx, m.ID)
	}
	return fmt.Errorf("azure: %s bears the tag of run %s and is nothing that a run makes: look at it yourself", m.ID, m.Run)
}

// forgetful keeps no tokens: what removes leftovers begins anew.
type forgetful struct{}

func (forgetful) token(string) string       { return "" }
func (forgetful) keep(string, string) error { return nil }
