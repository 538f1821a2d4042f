package policy

import (
	"fmt"
	"slices"

	"github.com/leeward-dr/leeward/streams"
)

// Group is a number of machines that cut their points together. It may be of any
// size; a machine is in one group at most.
type Group struct {
	Name    string   `json:"name" yaml:"name"`
	Members []string `json:"members" yaml:"members"` // in the order of the points
}

// Validate names what cannot work.
func (g *Group) Validate() error {
	if err := streams.ValidName("group", g.Name); err != nil {
		return err
	}
	if len(g.Members) > maxNames {
		return fmt.Errorf("group %s has %d machines, at most %d", g.Name, len(g.Members), maxNames)
	}
	for i, m := range g.Members {
		if err := streams.ValidName("machine", m); err != nil {
			return fmt.Errorf("group %s: %w", g.Name, err)
		}
		if slices.Contains(g.Members[:i], m) {
			return fmt.Errorf("group %s names machine %s twice", g.Name, m)
		}
	}
	return nil
}

// CheckGroups makes sure that no machine is in two groups, and no group is called
// like a machine that is not its only member: points would be of both.
func CheckGroups(all []Group) error {
	in := map[string]string{}
	for _, g := range all {
		for _, m := range g.Members {
			if other, ok := in[m]; ok {
				return fmt.Errorf("machine %s is in the groups %s and %s: remove it from one first", m, other, g.Name)
			}
			in[m] = g.Name
		}
	}
	for _, g := range all {
		if other, ok := in[g.Name]; ok {
			return fmt.Errorf("group %s has the name of a machine of group %s: choose another", g.Name, other)
		}
	}
	return nil
}

// GroupOf returns the group of a machine, nil if it is in none.
func GroupOf(all []Group, machine string) *Group {
	for i := range all {
		if slices.Contains(all[i].Members, machine) {
			return &all[i]
		}
	}
	return nil
}
