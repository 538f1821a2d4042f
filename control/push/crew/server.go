package crew

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/push"
	"github.com/leeward-dr/leeward/deploy/systemd"
)

// Unit is the text of the unit of an agent that is installed by hand or by us, not from a
// package.
func Unit() string {
	return strings.Replace(systemd.Agent, "ExecStart=/usr/bin/leeward-agent", "ExecStart=/usr/local/bin/leeward-agent", 1)
}

// agentsDir is where the package has agents for every processor.
const agentsDir = "share/leeward/agents"

// FindAgent finds the agent for a processor: what was named, the package's, or what was
// built beside this program.
func FindAgent(named, arch string) (string, error) {
	if named != "" {
		return named, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the agent: %w", err)
	}
	dir := filepath.Dir(self)
	tried := []string{filepath.Join(filepath.Dir(dir), agentsDir, "leeward-agent-linux-"+arch), filepath.Join(dir, "leeward-agent-linux-"+arch), filepath.Join(dir, "leeward-agent")}
	for _, f := range tried {
		if _, err := os.Stat(f); err == nil {
			return f, nil
		}
	}
	return "", fmt.Errorf("there is no agent for %s here: looked at %s", arch, strings.Join(tried, ", "))
}

// Server is control, as package push needs it.
type Server struct {
	Client *api.Client
	Manage string // URL of the management port, as the hosts reach it
}

// tokenLife is as long as an install may take.
const tokenLife = 10 * time.Minute

// Token makes a token that is good for as long as an install takes.
func (s *Server) Token(ctx context.Context, machine string) (push.Grant, error) {
	t, err := s.Client.NewToken(ctx, api.NewToken{Machine: machine, TTLSeconds: tokenLife.Seconds()})
	if err != nil {
		return push.Grant{}, err
	}
	return push.Grant{Server: s.Manage, Token: t.Text, Pin: t.Pin}, nil
}

// Mark remembers the machine's agent; another one is known by its instance.
func (s *Server) Mark(ctx context.Context, machine string) (func(context.Context, ...string) error, error) {
	before, held := map[string]bool{}, []string{}
	m, err := s.Client.Machine(ctx, machine)
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	if err == nil {
		for _, d := range m.Disks {
			if before[d.Instance] = true; d.Held {
				held = append(held, d.Disk)
			}
		}
	}
	return func(ctx context.Context, disks ...string) error {
		if len(disks) == 0 {
			disks = held
		}
		for {
			m, err := s.Client.Machine(ctx, machine)
			if err != nil && !isNotFound(err) {
				return err
			}
			if err == nil && holds(m, disks, before) {
				return nil
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return fmt.Errorf("no heartbeat of machine %s: %w", machine, ctx.Err())
			}
		}
	}, nil
}

// holds reports whether an agent that was not there before holds the disks.
func holds(m *api.Machine, disks []string, before map[string]bool) bool {
	n := 0
	for _, d := range m.Disks {
		if d.Held && !before[d.Instance] && (len(disks) == 0 || slices.Contains(disks, d.Disk)) {
			n++
		}
	}
	return n > 0 && n >= len(disks)
}

// Revoke refuses the machine's agent; one that control does not know is refused anyway.
func (s *Server) Revoke(ctx context.Context, machine string) error {
	if _, err := s.Client.RevokeAgent(ctx, machine); err != nil && !isNotFound(err) {
		return err
	}
	return nil
}

func isNotFound(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == api.CodeNotFound
}
