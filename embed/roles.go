package embed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/leeward-dr/leeward/streams/trust"
)

// Role is who connects.
type Role = trust.Role

// The roles that the appliance has a ready user of, see package trust.
const (
	Admin    = trust.Admin
	Operator = trust.Operator
	Control  = trust.Control
	Process  = trust.Process
	Agent    = trust.Agent
	Viewer   = trust.Viewer
	Tester   = trust.Tester
	Tap      = trust.Tap
)

var roles = [...]Role{Admin, Operator, Control, Process, Agent, Viewer, Tester, Tap}

// trusted makes the server believe in our operator: its own token and the
// accounts' are all it needs to judge users.
func (s *Server) trusted(o *server.Options) error {
	op, err := s.trust.Operator()
	if err != nil {
		return err
	}
	dir := filepath.Join(s.cfg.Dir, "trust", "servers")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of accounts: %w", err)
	}
	if s.known, err = server.NewDirAccResolver(dir, 0, time.Hour, server.NoDelete); err != nil {
		return fmt.Errorf("read the accounts in %s: %w", dir, err)
	}
	for _, account := range s.trust.Accounts() {
		if err := s.account(filepath.Join(dir, account+".jwt"), account); err != nil {
			return err
		}
	}
	o.TrustedOperators = append(o.TrustedOperators, op)
	o.SystemAccount, o.AccountResolver = s.trust.System(), s.known
	return nil
}

// account brings an account's token up to date.
func (s *Server) account(file, account string) error {
	was, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read an account's token: %w", err)
	}
	token, changed, err := s.trust.AccountToken(account, string(was))
	if err != nil {
		return fmt.Errorf("%s: %w: restore it from a copy; without it nobody knows which agents were revoked", file, err)
	}
	if changed {
		if err := trust.WriteWhole(file, []byte(token), 0o600); err != nil {
			return fmt.Errorf("write an account's token: %w", err)
		}
	}
	return nil
}

// moveStreams takes over the streams of an appliance that named the account by a
// word, as the first ones did.
func (s *Server) moveStreams() error {
	was, is := filepath.Join(s.cfg.Dir, "jetstream", "LEEWARD"), filepath.Join(s.cfg.Dir, "jetstream", s.trust.Core())
	if _, err := os.Stat(is); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(was, is); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take over the streams in %s: %w", was, err)
	}
	return nil
}
