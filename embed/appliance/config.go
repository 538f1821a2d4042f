package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/control/cli"
)

// Config is everything an appliance can be told. Flags, environment and
// leeward.yaml all set the same values.
type Config struct {
	Dir          string
	Listen       string        // address for agents and operators
	Manage       string        // address of the management port; empty: none
	Advertise    string        // address that connection files name, if not Listen
	TLSCert      string        // PEM files of the server; all empty: TLS as package embed decides
	TLSKey       string        //
	TLSCA        string        //
	Vault        string        // store URL; empty: Dir/vault
	KeyFile      string        // empty: Dir/keys/vault.key
	ChangesBytes int64         // bytes the bus may hold for the process server; 0: what fits
	RPO          time.Duration // RPO beyond which health warns
	LogLevel     string        // debug, info, warn or error
	LogFormat    string        // text, json, or empty: text on a terminal
	Keeper       []string      // command that keeps machines, see failover.Keeper; no flag

	tune func(*control.Config) // for tests
}

// Default is what an appliance does unless told otherwise.
func Default() Config {
	return Config{Dir: cli.DefaultDir, Listen: "127.0.0.1:4222", RPO: 5 * time.Minute, LogLevel: "info"}
}

// flags declares the settings, except dir, as flags.
func (c *Config) flags(f *pflag.FlagSet) {
	f.StringVar(&c.Listen, "listen", c.Listen, "address for agents and operators")
	f.StringVar(&c.Manage, "manage", "", "address of the management port: enrolment, health, metrics (default: none)")
	f.StringVar(&c.Advertise, "advertise", c.Advertise, "address that connection files name, if it is not --listen")
	f.StringVar(&c.TLSCert, "tls-cert", "", "PEM certificate of the server")
	f.StringVar(&c.TLSKey, "tls-key", "", "PEM key of the server")
	f.StringVar(&c.TLSCA, "tls-ca", "", "PEM certificates that signed --tls-cert")
	f.StringVar(&c.Vault, "vault", "", "the vault's store: "+vault.StoreURLs+" (default: DIR/vault)")
	f.StringVar(&c.KeyFile, "key-file", "", "file with the vault's key (default: DIR/keys/vault.key, made at the first start)")
	f.Int64Var(&c.ChangesBytes, "changes-bytes", 0, "bytes the bus may hold until the vault has them (default: what fits)")
	f.DurationVar(&c.RPO, "rpo-threshold", c.RPO, "RPO beyond which health warns; beyond 4 times it is critical")
	f.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", "", "text or json (default: text on a terminal)")
}

const (
	fileName = "leeward.yaml"
	maxFile  = 1 << 20
)

// readFile sets the flags that nobody gave from DIR/leeward.yaml. Its keys are the
// flags' names with '_' for '-'.
func readFile(dir string, f *pflag.FlagSet, known map[string]bool) error {
	name := filepath.Join(dir, fileName)
	st, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && st.Size() > maxFile {
		return fmt.Errorf("%s has %d bytes, at most %d", name, st.Size(), maxFile)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return cli.Usage("", "%s: %v", name, err)
	}
	if len(doc.Content) == 0 {
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return cli.Usage("", "%s line %d: want lines of key: value", name, root.Line)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		k, v := root.Content[i], root.Content[i+1]
		flag := strings.ReplaceAll(k.Value, "_", "-")
		switch {
		case !known[flag] || strings.Contains(k.Value, "-"):
			return cli.Usage("leeward up --help", "%s line %d: unknown key %q", name, k.Line, k.Value)
		case seen[flag]:
			return cli.Usage("", "%s line %d: %s is set twice", name, k.Line, k.Value)
		case v.Kind != yaml.ScalarNode:
			return cli.Usage("", "%s line %d: %s wants one value", name, v.Line, k.Value)
		}
		seen[flag] = true
		if f.Changed(flag) {
			continue
		}
		if err := f.Set(flag, v.Value); err != nil {
			return cli.Usage("", "%s line %d: %s: %v", name, v.Line, k.Value, err)
		}
		if err := cli.SetOrigin(f, flag, fmt.Sprintf("%s line %d", name, k.Line)); err != nil {
			return err
		}
	}
	return nil
}

// fill completes what has a default below Dir, and checks the rest.
func (c *Config) fill() error {
	if c.Dir == "" {
		return cli.Usage("", "--dir is empty: name a directory")
	}
	abs, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("--dir %s: %w", c.Dir, err)
	}
	c.Dir = abs
	if c.Vault == "" {
		c.Vault = "dir://" + filepath.Join(c.Dir, "vault")
	}
	if c.KeyFile == "" {
		c.KeyFile = filepath.Join(c.Dir, "keys", "vault.key")
	}
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return cli.Usage("", "--tls-cert and --tls-key belong together")
	case c.ChangesBytes != 0 && c.ChangesBytes < 64<<20:
		return cli.Usage("", "--changes-bytes is %d: use at least %d (64 MiB)", c.ChangesBytes, 64<<20)
	case c.RPO < time.Second:
		return cli.Usage("", "--rpo-threshold is %v: use at least 1s", c.RPO)
	case c.LogFormat != "" && c.LogFormat != "text" && c.LogFormat != "json":
		return cli.Usage("", "--log-format is %q: use text or json", c.LogFormat)
	}
	if _, err := level(c.LogLevel); err != nil {
		return cli.Usage("", "--log-level is %q: use debug, info, warn or error", c.LogLevel)
	}
	return nil
}
