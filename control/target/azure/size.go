package azure

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/leeward-dr/leeward/control/target"
)

// vmSize is a size of virtual machines that a region has.
type vmSize struct {
	name        string
	cpus        int
	memory      int64 // bytes
	dataDisks   int
	generations []string // V1, V2
	arch        string
	premium     bool
	barred      string // why our subscription may not have it, "" if it may
	family      string // whose quota it counts against
	controllers string // of disks, as SCSI, NVMe; "" where that is not said
	zones       []string
}

// wanted is what a machine needs of a size.
type wanted struct {
	cpus       int
	memory     int64
	disks      int // all of them
	generation string
	zone       string
	premium    bool
}

// generation is the kind of virtual machine that boots with a firmware.
func generation(firmware string) string {
	if firmware == "uefi" {
		return "V2"
	}
	return "V1"
}

func (p Place) wants(m *target.Machine) wanted {
	return wanted{
		cpus: max(1, m.CPUs), memory: m.Memory, disks: len(m.Disks), generation: generation(m.Firmware), zone: p.Zone,
		premium: strings.HasPrefix(p.DiskSKU, "Premium"),
	}
}

// lacks says what s has not of what is wanted, "" if nothing.
func (s vmSize) lacks(w wanted) string {
	switch {
	case s.barred != "":
		return s.barred
	case s.arch != "" && s.arch != "x64":
		return "its processors are " + s.arch
	case !slices.Contains(s.generations, w.generation):
		return fmt.Sprintf("it boots generation %s, the machine's firmware needs %s", strings.Join(s.generations, " and "), w.generation)
	case s.controllers != "" && !strings.Contains(strings.ToUpper(s.controllers), "SCSI"):
		return "its disks are behind " + s.controllers + " only, machines are made for SCSI"
	case s.dataDisks < w.disks-1:
		return fmt.Sprintf("it takes %d disks beside the first, the machine has %d", s.dataDisks, w.disks-1)
	case w.premium && !s.premium:
		return "it takes no premium disks"
	case w.zone != "" && !slices.Contains(s.zones, w.zone):
		return "there is none in zone " + w.zone
	}
	return ""
}

// families, best first: sizes of general use. Others, with graphics, with fast networks
// or tiny, are taken only when somebody names them.
var families = regexp.MustCompile(`^Standard_(D|E|F)\d+(-\d+)?(as|ads|s|ds|ls|als|ams|ms)?(_v(\d+))?$`)

// choose returns the smallest size that has all that is wanted, or with name that one.
func choose(all []vmSize, w wanted, name string) (vmSize, error) {
	if name != "" {
		i := slices.IndexFunc(all, func(s vmSize) bool { return strings.EqualFold(s.name, name) })
		if i < 0 {
			return vmSize{}, fmt.Errorf("the region has no size %s: see az vm list-skus", name)
		}
		if why := all[i].lacks(w); why != "" {
			return vmSize{}, fmt.Errorf("size %s will not do: %s", name, why)
		}
		return all[i], nil
	}
	var fit, some []vmSize
	for _, s := range all {
		if !families.MatchString(s.name) || s.cpus < w.cpus || s.memory < w.memory {
			continue
		}
		if s.lacks(w) == "" {
			fit = append(fit, s)
		} else {
			some = append(some, s)
		}
	}
	slices.SortFunc(some, func(a, b vmSize) int { return cmp.Or(cmp.Compare(a.cost(), b.cost()), cmp.Compare(a.name, b.name)) })
	if len(fit) == 0 {
		err := fmt.Errorf("no size of the region has %d CPUs, %d MiB of memory, room for %d disks and generation %s: name one (size), or ask for less (CPUs, memory)",
			w.cpus, w.memory>>20, w.disks, w.generation)
		if len(some) > 0 {
			err = fmt.Errorf("%w; the nearest is %s, but %s", err, some[0].name, some[0].lacks(w))
		}
		return vmSize{}, err
	}
	return slices.MinFunc(fit, func(a, b vmSize) int {
		return cmp.Or(cmp.Compare(a.cost(), b.cost()), -cmp.Compare(version(a.name), version(b.name)), cmp.Compare(a.name, b.name))
	}), nil
}

// cost weighs CPUs and memory against each other, about as prices do.
func (s vmSize) cost() int64 { return int64(s.cpus)*8 + s.memory>>30 }

// version is how new a size is.
func version(name string) int {
	m := families.FindStringSubmatch(name)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[5])
	if err != nil {
		return 1
	}
	return n
}

// maxPages is how many pages a list may have.
const maxPages = 500

// sizes asks what sizes the region has.
func (c *cloud) sizes(ctx context.Context) (all []vmSize, err error) {
	filter, pages := fmt.Sprintf("location eq '%s'", c.place.Region), 0
	for pager := c.skus.NewListPager(&armcompute.ResourceSKUsClientListOptions{Filter: &filter}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("azure: what sizes region %s has: %w", c.place.Region, brief(err))
		}
		if pages++; pages > maxPages {
			return nil, fmt.Errorf("azure: the list of what sizes region %s has does not end", c.place.Region)
		}
		for _, k := range page.Value {
			if s, ok := sizeOf(k); ok {
				all = append(all, s)
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("azure: region %s has no virtual machines for this subscription: see az account list-locations", c.place.Region)
	}
	return all, nil
}

func sizeOf(k *armcompute.ResourceSKU) (vmSize, bool) {
	if k == nil || k.Name == nil || k.ResourceType == nil || *k.ResourceType != "virtualMachines" {
		return vmSize{}, false
	}
	s := vmSize{name: *k.Name}
	if k.Family != nil {
		s.family = *k.Family
	}
	for _, x := range k.Capabilities {
		if x == nil || x.Name == nil || x.Value == nil {
			continue
		}
		n, err := strconv.ParseFloat(*x.Value, 64)
		if err != nil || n < 0 || n > math.MaxInt32 {
			n = 0
		}
		switch *x.Name {
		case "vCPUs":
			s.cpus = int(n)
		case "MemoryGB":
			s.memory = int64(n * (1 << 30))
		case "MaxDataDiskCount":
			s.dataDisks = int(n)
		case "HyperVGenerations":
			s.generations = strings.Split(*x.Value, ",")
		case "CpuArchitectureType":
			s.arch = strings.ToLower(*x.Value)
		case "DiskControllerTypes":
			s.controllers = *x.Value
		case "PremiumIO":
			s.premium = strings.EqualFold(*x.Value, "true")
		}
	}
	for _, l := range k.LocationInfo {
		if l != nil {
			for _, z := range l.Zones {
				s.zones = append(s.zones, *z)
			}
		}
	}
	for _, r := range k.Restrictions {
		switch {
		case r == nil || r.Type == nil:
		case *r.Type == armcompute.ResourceSKURestrictionsTypeLocation:
			s.barred = "the subscription may not use it in this region"
		case *r.Type == armcompute.ResourceSKURestrictionsTypeZone && r.RestrictionInfo != nil:
			s.zones = slices.DeleteFunc(s.zones, func(z string) bool {
				return slices.ContainsFunc(r.RestrictionInfo.Zones, func(no *string) bool { return no != nil && *no == z })
			})
		}
	}
	return s, true
}
