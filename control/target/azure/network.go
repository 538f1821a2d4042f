package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// What is sent for networks is little, and a client for all of Microsoft.Network costs
// more than all of ours to compile; see ADR 0031.

const (
	ownSubnet = "isolated"
	ownPrefix = "192.168.251.0/24" // nothing routes there
)

type object = map[string]any

// body is a resource to make.
func (r *Run) body(properties object) object {
	return object{"location": r.b.Place.Region, "tags": r.b.tags(), "properties": properties}
}

// denyAll is a rule of a security group. The lowest numbers win over those that Azure adds.
func denyAll(direction string) object {
	return object{"name": "deny-all-" + strings.ToLower(direction), "properties": object{
		"priority": 100, "direction": direction, "access": "Deny", "protocol": "*", "sourceAddressPrefix": "*",
		"sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": "*",
	}}
}

// ownNetwork makes a network for one machine that leads nowhere.
func (r *Run) ownNetwork(ctx context.Context) error {
	p := r.b.Place
	nsg := p.network("networkSecurityGroups/" + r.b.nsg())
	if err := r.put(ctx, nsg, networkVersion, r.body(object{"securityRules": []object{denyAll("Inbound"), denyAll("Outbound")}})); err != nil {
		return err
	}
	return r.put(ctx, p.network("virtualNetworks/"+r.b.net()), networkVersion, r.body(object{
		"addressSpace": object{"addressPrefixes": []string{ownPrefix}},
		"subnets": []object{{"name": ownSubnet, "properties": object{
			"addressPrefix": ownPrefix, "networkSecurityGroup": object{"id": nsg}, "defaultOutboundAccess": false,
		}}},
	}))
}

// nic makes the network interface. It has no public address.
func (r *Run) nic(ctx context.Context, subnet string) error {
	return r.put(ctx, r.b.Place.network("networkInterfaces/"+r.b.nic()), networkVersion, r.body(object{
		"ipConfigurations": []object{{"name": "first", "properties": object{
			"subnet": object{"id": subnet}, "privateIPAllocationMethod": "Dynamic", "primary": true,
		}}},
	}))
}

// put makes a resource, or makes it again.
func (r *Run) put(ctx context.Context, id, version string, body object) error {
	_, err := await(ctx, r.c, r.b, "make "+tail(id), r.c.begin(http.MethodPut, id, version, body))
	return err
}

// tail is the kind and the name of a resource, out of its id.
func tail(id string) string {
	parts := strings.Split(id, "/")
	return strings.Join(parts[max(0, len(parts)-2):], " ")
}

// reachable makes sure that the place is there: the resource group, and for a machine
// with a network its subnet, in the region.
func (c *cloud) reachable(ctx context.Context, isolated bool) error {
	var wrong error
	if err := c.call(ctx, http.MethodGet, c.place.group(), resourcesVersion, nil, nil); err != nil {
		wrong = fmt.Errorf("azure: resource group %s: %w", c.place.ResourceGroup, brief(err))
	}
	if c.place.Via == Import {
		wrong = all(wrong, c.container(ctx))
	}
	if isolated || c.place.Subnet == "" {
		return wrong
	}
	return all(wrong, c.subnet(ctx))
}

// subnet makes sure that the subnet for failovers is there, in the region.
func (c *cloud) subnet(ctx context.Context) error {
	subnet := c.place.subnet()
	if err := c.call(ctx, http.MethodGet, subnet, networkVersion, nil, nil); err != nil {
		return fmt.Errorf("azure: subnet %s: %w", c.place.Subnet, brief(err))
	}
	var net resource
	if err := c.call(ctx, http.MethodGet, subnet[:strings.LastIndex(subnet, "/subnets/")], networkVersion, nil, &net); err != nil {
		return fmt.Errorf("azure: the network of subnet %s: %w", c.place.Subnet, brief(err))
	}
	if at := strings.ToLower(strings.ReplaceAll(net.Location, " ", "")); at != c.place.Region {
		return fmt.Errorf("azure: subnet %s is in region %s, machines come up in %s: name a subnet there", c.place.Subnet, at, c.place.Region)
	}
	return nil
}

// address asks for the private address of the machine.
func (r *Run) address(ctx context.Context) (string, error) {
	var nic resource
	if err := r.c.call(ctx, http.MethodGet, r.b.Place.network("networkInterfaces/"+r.b.nic()), networkVersion, nil, &nic); err != nil {
		return "", fmt.Errorf("azure: look at the network interface: %w", brief(err))
	}
	var p struct {
		Configs []struct {
			Properties struct {
				Address string `json:"privateIPAddress"`
			} `json:"properties"`
		} `json:"ipConfigurations"`
	}
	if err := json.Unmarshal(nic.Properties, &p); err != nil || len(p.Configs) == 0 || p.Configs[0].Properties.Address == "" {
		return "", fmt.Errorf("azure: the network interface has no address yet")
	}
	return p.Configs[0].Properties.Address, nil
}
