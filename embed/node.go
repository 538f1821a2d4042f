package embed

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/leeward-dr/leeward/streams/trust"
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
	if err := accountsDir(); err != nil {
		return err
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

// accountsVar names the directory in which a node keeps the accounts' tokens, with
// whom they refuse. RunNode sets it to a folder of storeVar's unless it is set.
const (
	accountsVar = "LEEWARD_ACCOUNTS"
	storeVar    = "LEEWARD_STORE"
)

// accountsDir sees that the node has a place of its own for the accounts' tokens.
func accountsDir() error {
	if store := os.Getenv(storeVar); store != "" && os.Getenv(accountsVar) == "" {
		return os.Setenv(accountsVar, filepath.Join(store, "accounts"))
	}
	return nil
}

// WriteCluster prepares what the nodes of a cluster and those who connect to it
// need, in dir: the keys of package trust, a context of the nats CLI for every
// role, and AccountsFile, which makes the nodes judge the users. Keys that are there
// are kept. urls are where clients connect, with commas; ca is the file that signed
// the nodes' certificates.
func WriteCluster(dir, urls, ca string) error {
	t, err := trust.Open(filepath.Join(dir, "trust"))
	if err != nil {
		return err
	}
	text, err := t.ServerConfig("$" + accountsVar)
	if err != nil {
		return err
	}
	text = "# Who may do what. Written by `leeward nats init`; the same on every node.\n" + text
	if err := trust.WriteWhole(filepath.Join(dir, AccountsFile), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the accounts: %w", err)
	}
	return writeContexts(dir, t, urls, ca)
}
