package azure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// size chooses a size for a machine among those of the region.
func (c *cloud) size(ctx context.Context, w wanted) (vmSize, error) {
	sizes, err := c.sizes(ctx)
	if err != nil {
		return vmSize{}, err
	}
	s, err := choose(sizes, w, c.place.Size)
	if err != nil {
		return vmSize{}, fmt.Errorf("azure: region %s: %w", c.place.Region, err)
	}
	return s, nil
}

// room says what of the subscription's quota a machine of a size would exceed. Who may not
// ask for it is not told: then Azure says so when the machine is made.
func (c *cloud) room(ctx context.Context, s vmSize) error {
	need := map[string]int64{"cores": int64(s.cpus), strings.ToLower(s.family): int64(s.cpus), "virtualmachines": 1}
	var wrong []error
	pages := 0
	for pager := c.usage.NewListPager(c.place.Region, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if refused(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("azure: what quota is left in region %s: %w", c.place.Region, brief(err))
		}
		if pages++; pages > maxPages {
			return errors.New("azure: the list of quotas does not end")
		}
		for _, u := range page.Value {
			if u == nil || u.Name == nil || u.Name.Value == nil || u.Limit == nil || u.CurrentValue == nil {
				continue
			}
			n := need[strings.ToLower(*u.Name.Value)]
			if left := *u.Limit - int64(*u.CurrentValue); n > left {
				wrong = append(wrong, fmt.Errorf("azure: size %s needs %d of quota %s in region %s, %d of %d are left: ask Azure for more, or name another size",
					s.name, n, *u.Name.Value, c.place.Region, max(0, left), *u.Limit))
			}
		}
	}
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return all(wrong...)
}
