package cli

import (
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams/bus"
)

const connectTime = 10 * time.Second

// connect connects to control; the caller calls the function it returns when done.
func (a *app) connect(ctx context.Context) (*api.Client, func(), error) {
	o := bus.Options{Name: "leeward-cli", URL: a.server, Context: a.context}
	if o.Context == "" {
		// Who can read the directory can do everything. One that was made by an earlier
		// version has no admin, and its operator is one.
		file := filepath.Join(a.dir, "contexts", "admin.json")
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			file = filepath.Join(a.dir, "contexts", "operator.json")
		}
		switch _, err := os.Stat(file); {
		case err == nil:
			o.Context = file
		case errors.Is(err, os.ErrPermission):
			return nil, nil, api.Errorf(api.CodeNotAuthorised, "run as the user who runs leeward up, or name your own context: --context FILE",
				"%s cannot be read", file)
		case a.server == "":
			return nil, nil, api.Errorf(api.CodeNoConnection, "start an appliance with: leeward up, or name it: --dir DIR, --context FILE or --server URL",
				"no server is named, and there is no appliance in %s", a.dir)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	b, err := bus.Connect(ctx, o)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return nil, nil, err
		}
		code := api.CodeNoConnection
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			code = api.CodeNotAuthorised
		}
		return nil, nil, api.Errorf(code, "", "%w", err)
	}
	c := api.NewClient(b.Conn)
	c.Actor = whoAmI()
	return c, b.Close, nil
}

// whoAmI is the name for the audit trail: the user, and the one behind sudo.
func whoAmI() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if s := os.Getenv("SUDO_USER"); s != "" && s != name {
		name = s + " as " + name
	}
	if h, err := os.Hostname(); err == nil {
		name += "@" + h
	}
	return name
}

// with runs fn with a client.
func (a *app) with(fn func(ctx context.Context, c *api.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if a.shared != nil {
			return fn(cmd.Context(), a.shared.client, args)
		}
		c, done, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		if a.watching {
			a.shared = &shared{c, done}
		} else {
			defer done()
		}
		return fn(cmd.Context(), c, args)
	}
}

// vaultFlags name a vault and its key.
type vaultFlags struct {
	url     string
	keyFile string
}

func (v *vaultFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&v.url, "vault", "", "the vault's store: "+vault.StoreURLs+" (default: the appliance's below --dir)")
	c.Flags().StringVar(&v.keyFile, "key-file", "", "file with the vault's key (default: the appliance's; or the key itself in LEEWARD_KEY)")
}

// fill sets what was not given to the appliance's.
func (v *vaultFlags) fill(a *app) {
	if v.url == "" {
		v.url = "dir://" + absolute(filepath.Join(a.dir, "vault"))
	}
	if v.keyFile == "" {
		v.keyFile = filepath.Join(a.dir, "keys", "vault.key")
	}
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// key reads the vault's key: the file that was named, else LEEWARD_KEY, else the
// appliance's file.
func (v *vaultFlags) key(a *app) (vault.Key, error) {
	if k := a.Getenv("LEEWARD_KEY"); k != "" && v.keyFile == "" {
		return vault.KeyFromPassphrase(k), nil
	}
	f := *v
	f.fill(a)
	k, err := vault.KeyFromFile(f.keyFile)
	if errors.Is(err, os.ErrNotExist) {
		return k, api.Errorf(api.CodeNotFound, "name the file that holds the key: --key-file FILE, or set LEEWARD_KEY", "there is no key file %s", f.keyFile)
	}
	return k, err
}

// open opens the vault.
func (v *vaultFlags) open(ctx context.Context, a *app) (*vault.Vault, error) {
	key, err := v.key(a)
	if err != nil {
		return nil, err
	}
	f := *v
	f.fill(a)
	st, err := vault.OpenStore(f.url, false)
	if errors.Is(err, os.ErrNotExist) {
		return nil, api.Errorf(api.CodeNotFound, "name another with --vault, or make one: leeward vault init --vault URL", "there is no vault: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return vault.Unlock(ctx, st, key)
}
