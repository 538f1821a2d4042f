package azure

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// Made is a resource that a run made and that is there.
type Made struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // such as Microsoft.Compute/disks
	Name    string    `json:"name"`
	Run     string    `json:"run"`
	Machine string    `json:"machine"`
	Test    bool      `json:"test"`
	Began   time.Time `json:"began,omitzero"`
}

// maxListed bounds how many resources are listed.
const maxListed = 10_000

// List returns what runs have made in a place, by the tag that all of it bears: also of
// runs that nobody here knows of any more. run may be empty: of all runs.
func List(ctx context.Context, cfg Config, run string) (all []Made, err error) {
	cfg.fill()
	if err := cfg.Place.Check(); err != nil {
		return nil, err
	}
	c, err := newCloud(&cfg, cfg.Place)
	if err != nil {
		return nil, err
	}
	return c.made(ctx, run)
}

func (c *cloud) made(ctx context.Context, run string) (all []Made, err error) {
	filter := "tagName eq '" + tagRun + "'"
	if run != "" {
		filter += " and tagValue eq '" + strings.ReplaceAll(run, "'", "''") + "'"
	}
	at := runtime.JoinPaths(c.arm.Endpoint(), c.place.group(), "resources") + "?api-version=" + resourcesVersion + "&$filter=" + url.QueryEscape(filter)
	for at != "" {
		var page struct {
			Value []resource `json:"value"`
			Next  string     `json:"nextLink"`
		}
		if err := c.page(ctx, at, &page); err != nil {
			return nil, fmt.Errorf("azure: list what runs have made in %s: %w", c.place.ResourceGroup, brief(err))
		}
		for _, v := range page.Value {
			if len(all) == maxListed {
				return nil, fmt.Errorf("azure: %s holds more than %d resources of runs", c.place.ResourceGroup, maxListed)
			}
			if v.Tags[tagRun] == "" {
				continue // not ours
			}
			m := Made{ID: v.ID, Kind: v.Type, Name: v.Name, Run: v.Tags[tagRun], Machine: v.Tags[tagMachine], Test: v.Tags[tagKind] == "test"}
			m.Began, _ = time.Parse(time.RFC3339, v.Tags[tagBegan]) // unknown, if somebody changed it
			all = append(all, m)
		}
		if at == page.Next {
			break
		}
		at = page.Next
	}
	slices.SortFunc(all, func(a, b Made) int {
		return cmp.Or(cmp.Compare(a.Run, b.Run), cmp.Compare(order(a.Kind), order(b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

// page gets a list by its whole address, which must be the resource manager's.
func (c *cloud) page(ctx context.Context, at string, out any) error {
	if !strings.HasPrefix(at, strings.TrimSuffix(c.arm.Endpoint(), "/")+"/") {
		return fmt.Errorf("the list goes on at %s, which is not Azure's resource manager", plain(at))
	}
	req, err := runtime.NewRequest(ctx, http.MethodGet, at)
	if err != nil {
		return err
	}
	resp, err := c.arm.Pipeline().Do(req)
	if err != nil {
		return err
	}
	if !runtime.HasStatusCode(resp, http.StatusOK) {
		defer resp.Body.Close()
		return runtime.NewResponseError(resp)
	}
	return runtime.UnmarshalAsJSON(resp, out)
}

// kinds are the kinds of resource that runs make, in the order in which they can go.
var kinds = []string{
	"microsoft.compute/virtualmachines", "microsoft.network/networkinterfaces", "microsoft.compute/disks",
	"microsoft.network/virtualnetworks", "microsoft.network/networksecuritygroups",
}

func order(kind string) int { return slices.Index(kinds, strings.ToLower(kind)) }

// Remove removes what a run has made in a place, by its tag. It is for runs whose
// directory is lost; the others are cleaned up by those who keep them.
func Remove(ctx context.Context, cfg Config, run string) (removed []Made, err error) {
	if run == "" {
		return nil, fmt.Errorf("azure: name the run to remove")
	}
	cfg.fill()
	if err := cfg.Place.Check(); err != nil {
		return nil, err
	}
	c, err := newCloud(&cfg, cfg.Place)
	if err != nil {
		return nil, err
	}
	all, err := c.made(ctx, run)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if err := (remover{c, forgetful{}}).made(ctx, m); err != nil {
			return removed, err
		}
		removed = append(removed, m)
	}
	return removed, nil
}
