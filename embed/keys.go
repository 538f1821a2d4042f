package embed

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/trust"
)

// CredsFile is the ready user of a role: its token and its seed.
func (s *Server) CredsFile(r Role) string { return s.trust.CredsFile(r) }

// ContextFile is a context of the nats CLI for a role; bus.Options.Context takes
// it too.
func (s *Server) ContextFile(r Role) string { return ContextFile(s.cfg.Dir, r) }

// ContextFile is where a server on dir puts the context of a role.
func ContextFile(dir string, r Role) string { return filepath.Join(dir, "contexts", string(r)+".json") }

// writeContexts writes a context for each role. They hold no secret, only the
// path of one.
func writeContexts(dir string, t *trust.Trust, url, ca string) error {
	if err := os.MkdirAll(filepath.Join(dir, "contexts"), 0o700); err != nil {
		return fmt.Errorf("make the directory of contexts: %w", err)
	}
	for _, r := range roles {
		key, err := t.PublicKey(r)
		if err != nil {
			return fmt.Errorf("write context of role %s: %w", r, err)
		}
		b, err := json.MarshalIndent(map[string]string{
			"description": "Leeward " + string(r), "url": url, "creds": t.CredsFile(r), "ca": ca,
			"inbox_prefix": bus.InboxPrefix(key),
		}, "", "  ")
		if err == nil {
			err = trust.WriteWhole(ContextFile(dir, r), append(b, '\n'), 0o600)
		}
		if err != nil {
			return fmt.Errorf("write context of role %s: %w", r, err)
		}
	}
	return nil
}
