package fleet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

// store is the disk of a node whose power may fail.
type store struct {
	dev, dir string
	unmount  func() error
}

// storeBytes is the size of a node's disk.
const storeBytes = 6 << 30

// store makes the directory of a node's streams: on a disk of its own if the power of
// nodes is to fail.
func (t *trial) store(ctx context.Context, node string) (string, error) {
	name := "store-" + node
	if !t.o.Power {
		return filepath.Join(t.rig.Dir, name), nil
	}
	file, err := t.rig.File(name+".img", storeBytes)
	if err != nil {
		return "", err
	}
	s := &store{}
	if s.dev, err = t.rig.Loop(ctx, file); err != nil {
		return "", err
	}
	if err := rig.Mkfs(ctx, "ext4", s.dev); err != nil {
		return "", err
	}
	if s.dir, s.unmount, err = t.rig.Mount(ctx, name, "ext4", s.dev, ""); err != nil {
		return "", err
	}
	t.stores[node] = s
	return s.dir, nil
}

// on gives a disk its power back: whatever it did not have when it went is gone.
func (s *store) on(ctx context.Context, r *rig.Rig, name string) (err error) {
	if err := s.unmount(); err != nil {
		return err
	}
	s.dir, s.unmount, err = r.Mount(ctx, name, "ext4", s.dev, "")
	return err
}

// powerFault chooses whose power fails: one node after the other, the node that leads
// CHANGES, and all at once.
func (t *trial) powerFault(i int) (what string, do func(context.Context) error) {
	nodes := t.parts[:3]
	if t.o.Only != "" {
		i = t.rnd.IntN(3)
	}
	switch i % 3 {
	case 0:
		n := t.rnd.IntN(len(nodes))
		return "power of " + nodes[n].name, func(ctx context.Context) error { return t.power(ctx, nodes[n:n+1]) }
	case 1:
		return "power of the leader", func(ctx context.Context) error {
			n, err := t.leader(ctx)
			if err != nil {
				return err
			}
			return t.power(ctx, nodes[n:n+1])
		}
	}
	return "power of all", func(ctx context.Context) error { return t.power(ctx, nodes) }
}

// leader is the index of the node that leads CHANGES.
func (t *trial) leader(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("CHANGES has no leader"))
	defer cancel()
	err = rig.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		s, err := t.site.Bus.JS.Stream(short, "CHANGES")
		if err != nil || s.CachedInfo().Cluster == nil {
			return false, nil
		}
		for i, p := range t.parts[:3] {
			if p.name == s.CachedInfo().Cluster.Leader {
				n = i
				return true, nil
			}
		}
		return false, nil
	})
	return n, err
}

// power takes the power of some nodes at one moment and gives it back.
func (t *trial) power(ctx context.Context, nodes []*part) error {
	for _, p := range nodes {
		if err := rig.PowerOff(t.stores[p.name].dir); err != nil {
			return err
		}
	}
	var ups []func()
	var all error
	for _, p := range nodes {
		up, err := p.Down()
		ups, all = append(ups, up), errors.Join(all, err)
	}
	for _, p := range nodes {
		if err := t.stores[p.name].on(ctx, t.rig, "store-"+p.name); err != nil {
			all = errors.Join(all, fmt.Errorf("give %s its power back: %w", p.name, err))
		}
	}
	for _, up := range ups {
		up()
	}
	return all
}
