package azure

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Place says where in Azure machines come up, and how. It holds no secret: who we are is
// for azidentity to find out.
type Place struct {
	Subscription  string `json:"subscription,omitempty" yaml:"subscription,omitempty"`     // its id
	ResourceGroup string `json:"resource_group,omitempty" yaml:"resource_group,omitempty"` // must exist
	Region        string `json:"region,omitempty" yaml:"region,omitempty"`                 // such as westeurope
	Zone          string `json:"zone,omitempty" yaml:"zone,omitempty"`                     // 1, 2 or 3; empty: none
	Subnet        string `json:"subnet,omitempty" yaml:"subnet,omitempty"`                 // for failovers: VNET/SUBNET in the resource group, or a whole id
	Size          string `json:"size,omitempty" yaml:"size,omitempty"`                     // of the virtual machine; empty: chosen
	DiskSKU       string `json:"disk_sku,omitempty" yaml:"disk_sku,omitempty"`             // empty: StandardSSD_LRS
	Via           string `json:"via,omitempty" yaml:"via,omitempty"`                       // upload or import; empty: upload
	Account       string `json:"account,omitempty" yaml:"account,omitempty"`               // import: whole id of the storage account
	Container     string `json:"container,omitempty" yaml:"container,omitempty"`           // import: empty: leeward-disks
	AgentServer   string `json:"agent_server,omitempty" yaml:"agent_server,omitempty"`     // URL of the bus for agents there; empty: they do not start
	Cloud         string `json:"cloud,omitempty" yaml:"cloud,omitempty"`                   // public, government or china; empty: public
	Identity      string `json:"identity,omitempty" yaml:"identity,omitempty"`             // client id of a managed identity; empty: what azidentity finds
}

// The ways a disk gets to Azure.
const (
	Upload = "upload"
	Import = "import"
)

const (
	defaultSKU       = "StandardSSD_LRS"
	defaultContainer = "leeward-disks"
	maxFile          = 64 << 10
)

// ReadPlace reads a file of settings, as YAML. One that does not exist says nothing.
func ReadPlace(file string) (p Place, err error) {
	if st, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) || file == "" {
		return p, nil
	} else if err == nil && st.Size() > maxFile {
		return p, fmt.Errorf("%s has %d bytes, at most %d", file, st.Size(), maxFile)
	}
	f, err := os.Open(file)
	if err != nil {
		return p, fmt.Errorf("read the settings of Azure: %w", err)
	}
	defer f.Close()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("settings of Azure in %s: %w", file, err)
	}
	return p, nil
}

// Over returns p, completed from q where p says nothing.
func (p Place) Over(q Place) Place {
	for to, from := range map[*string]string{
		&p.Subscription: q.Subscription, &p.ResourceGroup: q.ResourceGroup, &p.Region: q.Region, &p.Zone: q.Zone, &p.Subnet: q.Subnet, &p.Size: q.Size,
		&p.DiskSKU: q.DiskSKU, &p.Via: q.Via, &p.Account: q.Account, &p.AgentServer: q.AgentServer, &p.Container: q.Container, &p.Cloud: q.Cloud, &p.Identity: q.Identity,
	} {
		*to = cmp.Or(*to, from)
	}
	return p
}

var (
	guid          = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	groupName     = regexp.MustCompile(`^[-\w.()]{1,90}$`)
	region        = regexp.MustCompile(`^[a-z0-9]{2,50}$`)
	word          = regexp.MustCompile(`^[\w.-]{1,80}$`)
	account       = regexp.MustCompile(`(?i)^/subscriptions/[-0-9a-f]{36}/resourceGroups/[-\w.()]{1,90}/providers/Microsoft\.Storage/storageAccounts/([a-z0-9]{3,24})$`)
	subnetID      = regexp.MustCompile(`(?i)^/subscriptions/[-0-9a-f]{36}/resourceGroups/[-\w.()]{1,90}/providers/Microsoft\.Network/virtualNetworks/[\w.-]{1,80}/subnets/[\w.-]{1,80}$`)
	busURL        = regexp.MustCompile(`^(nats|tls|ws|wss)://[-\w.:\[\]]+(/[-\w./]*)?$`)
	subnetRef     = regexp.MustCompile(`^[\w.-]{1,80}/[\w.-]{1,80}$`)
	containerName = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9]){2,62}$`)
)

// Check names the setting that cannot work.
func (p Place) Check() error {
	wrong := func(setting, value, want string) error {
		if value == "" {
			return fmt.Errorf("azure: no %s is given: want %s", setting, want)
		}
		return fmt.Errorf("azure: %s is %q: want %s", setting, value, want)
	}
	switch {
	case !guid.MatchString(p.Subscription):
		return wrong("subscription", p.Subscription, "the id of the subscription, as az account show has it")
	case !groupName.MatchString(p.ResourceGroup) || strings.HasSuffix(p.ResourceGroup, "."):
		return wrong("resource group", p.ResourceGroup, "the name of a resource group that exists")
	case !region.MatchString(p.Region):
		return wrong("region", p.Region, "a region such as westeurope")
	case p.Zone != "" && p.Zone != "1" && p.Zone != "2" && p.Zone != "3":
		return wrong("zone", p.Zone, "1, 2 or 3")
	case p.Subnet != "" && !subnetID.MatchString(p.Subnet) && !subnetRef.MatchString(p.Subnet):
		return wrong("subnet", p.Subnet, "VNET/SUBNET in the resource group, or a subnet's whole id")
	case p.Size != "" && !word.MatchString(p.Size):
		return wrong("size", p.Size, "a size such as Standard_D2s_v5")
	case p.DiskSKU != "" && !word.MatchString(p.DiskSKU):
		return wrong("disk sku", p.DiskSKU, "Standard_LRS, StandardSSD_LRS or Premium_LRS")
	case strings.HasPrefix(p.DiskSKU, "Ultra") || strings.HasPrefix(p.DiskSKU, "PremiumV2"):
		return wrong("disk sku", p.DiskSKU, "another: a machine cannot boot from that kind")
	case p.Via != "" && p.Via != Upload && p.Via != Import:
		return wrong("via", p.Via, "upload or import")
	case p.Via == Import && !account.MatchString(p.Account):
		return wrong("account", p.Account, "the whole id of the storage account for disks on their way")
	case p.Container != "" && !containerName.MatchString(p.Container):
		return wrong("container", p.Container, "3 to 63 small letters, digits and hyphens")
	case p.AgentServer != "" && !busURL.MatchString(p.AgentServer):
		return wrong("agent server", p.AgentServer, "the URL of the bus, such as tls://bus.example:4222")
	case p.Cloud != "" && p.Cloud != "public" && p.Cloud != "government" && p.Cloud != "china":
		return wrong("cloud", p.Cloud, "public, government or china")
	}
	return nil
}

// checkOpen checks what only a machine with a network needs.
func (p Place) checkOpen() error {
	if p.Subnet == "" {
		return errors.New("azure: no subnet is given: name the one that machines which are failed over go into, as VNET/SUBNET")
	}
	return nil
}

// group is the path of the resource group.
func (p Place) group() string {
	return "/subscriptions/" + p.Subscription + "/resourceGroups/" + p.ResourceGroup
}

// network is the path of a resource of a network, such as networkInterfaces/NAME.
func (p Place) network(what string) string { return p.group() + "/providers/Microsoft.Network/" + what }

// subnet is the whole id of the subnet for failovers.
func (p Place) subnet() string {
	if strings.HasPrefix(p.Subnet, "/") {
		return p.Subnet
	}
	net, name, _ := strings.Cut(p.Subnet, "/")
	return p.network("virtualNetworks/" + net + "/subnets/" + name)
}

// KeptURL is where the copy of a disk is kept, "" if the place keeps none.
func (p Place) KeptURL(k Key) string {
	if !p.Keeps() {
		return ""
	}
	return p.blobURL(k.name())
}

// blobURL is where a blob of the storage account is.
func (p Place) blobURL(name string) string {
	suffix := map[string]string{"government": "core.usgovcloudapi.net", "china": "core.chinacloudapi.cn"}[p.Cloud]
	m := account.FindStringSubmatch(p.Account)
	return fmt.Sprintf("https://%s.blob.%s/%s/%s", strings.ToLower(m[1]), cmp.Or(suffix, "core.windows.net"), cmp.Or(p.Container, defaultContainer), name)
}
