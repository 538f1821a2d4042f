package embed

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/leeward-dr/leeward/streams/bus"
)

// nodeStart is how long a node may take to listen; it recovers its streams meanwhile.
const nodeStart = 2 * time.Minute

// RunNode runs one node of a NATS cluster as a configuration file of the NATS server
// says (deploy/nats has one that works), until ctx ends. Then clients are asked to go
// elsewhere first. Any nats-server of the same version does as well; this one is in
// the binary already.
func RunNode(ctx context.Context, file string, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		return fmt.Errorf("read the node's configuration: %w", err)
	}
	o.NoSigs, o.NoLog = true, true
	ns, err := server.NewServer(o)
	if err != nil {
		return fmt.Errorf("make the NATS node of %s: %w", file, err)
	}
	lines := &logger{log: log}
	ns.SetLoggerV2(lines, false, false, false)
	defer func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	}()
	ns.Start()
	if line := lines.first(); line != "" {
		return fmt.Errorf("start the NATS node of %s: %s", file, line)
	}
	if !ns.ReadyForConnections(nodeStart) {
		return fmt.Errorf("the NATS node of %s does not listen: is its port in use?", file)
	}
	log.Info("the node is up", "name", ns.Name(), "address", ns.Addr().String())
	select {
	case <-ctx.Done():
	case <-ended(ns):
		return fmt.Errorf("the NATS node of %s ended by itself, its log says why", file)
	}
	// Hands its leaderships to others and lets clients go, one by one.
	ns.LameDuckShutdown()
	return nil
}

// ended is closed when the server has stopped.
func ended(ns *server.Server) <-chan struct{} {
	c := make(chan struct{})
	go func() { ns.WaitForShutdown(); close(c) }()
	return c
}

// AccountsFile is what WriteCluster writes for a node's configuration to include.
const AccountsFile = "accounts.conf"

// WriteCluster prepares what the nodes of a cluster and those who connect to it
// need, in dir: a key and a context of the nats CLI for every role, and
// AccountsFile, which says what the roles may do. Keys that are there are kept. urls
// are where clients connect, with commas; ca is the file that signed the nodes'
// certificates.
func WriteCluster(dir, urls, ca string) error {
	keys, err := loadKeys(dir)
	if err != nil {
		return err
	}
	text, err := accounts(keys)
	if err != nil {
		return err
	}
	// An account's users as the server's own language writes them, without the braces
	// of the whole.
	var whole map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		return fmt.Errorf("write the accounts: %w", err)
	}
	var b strings.Builder
	b.WriteString("# Who may do what. Written by `leeward nats init`; the same on every node.\n")
	for name, v := range whole {
		fmt.Fprintf(&b, "%s: %s\n", name, v)
	}
	if err := writeWhole(filepath.Join(dir, AccountsFile), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write the accounts: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "contexts"), 0o700); err != nil {
		return fmt.Errorf("make the directory of contexts: %w", err)
	}
	for _, r := range roles {
		b, err := json.MarshalIndent(map[string]string{
			"description": "Leeward " + string(r), "url": urls, "nkey": keyFile(dir, r), "ca": ca,
			"inbox_prefix": bus.InboxPrefix(keys[r]),
		}, "", "  ")
		if err == nil {
			err = writeWhole(filepath.Join(dir, "contexts", string(r)+".json"), append(b, '\n'), 0o600)
		}
		if err != nil {
			return fmt.Errorf("write context of role %s: %w", r, err)
		}
	}
	return nil
}
