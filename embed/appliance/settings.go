package appliance

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/embed"
)

// take gives cmd the flags of the settings. What it returns reads leeward.yaml into
// those that nobody gave; call it when the command runs.
func (c *Config) take(cmd *cobra.Command) func() error {
	own := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	c.flags(own)
	known := map[string]bool{}
	own.VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	cmd.Flags().AddFlagSet(own)
	return func() (err error) {
		if c.Dir, err = cmd.Flags().GetString("dir"); err != nil { // shared by all commands
			return err
		}
		return readFile(c.Dir, cmd.Flags(), known)
	}
}

// server is what the settings mean for the embedded server.
func (c *Config) server() embed.Config {
	e := embed.Default()
	e.Dir, e.Listen, e.Advertise = c.Dir, c.Listen, c.Advertise
	e.Cert, e.Key, e.CA = c.TLSCert, c.TLSKey, c.TLSCA
	return e
}

// check finds what up would stumble over, without making or starting anything.
func (c *Config) check() error {
	if err := c.fill(); err != nil {
		return err
	}
	if err := c.server().Validate(); err != nil {
		return cli.Usage("", "%v", err)
	}
	if c.Manage != "" {
		if _, _, err := net.SplitHostPort(c.Manage); err != nil {
			return cli.Usage("", "--manage is %q: write host:port", c.Manage)
		}
	}
	if c.TLSCert != "" {
		if _, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey); err != nil {
			return cli.Usage("", "--tls-cert and --tls-key: %v", err)
		}
	}
	if st, err := os.Stat(c.Dir); err == nil && !st.IsDir() {
		return cli.Usage("", "--dir %s is no directory", c.Dir)
	}
	if _, err := vault.KeyFromFile(c.KeyFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cli.Usage("", "--key-file: %v", err)
	}
	// The first start makes a vault that is not there.
	if _, err := vault.OpenStore(c.Vault, false); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cli.Usage("", "--vault: %v", err)
	}
	return nil
}

// ConfigCommand is `leeward config`: it checks and shows the settings that `leeward up`
// would run with, given the same flags and environment.
func ConfigCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "The appliance's settings", Args: none}
	c.RunE = func(c *cobra.Command, _ []string) error {
		return cli.Usage(c.CommandPath()+" --help", "%s needs a command: check, show", c.CommandPath())
	}
	c.AddCommand(checkCommand(), showCommand())
	return c
}

func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return cli.Usage(cmd.CommandPath()+" --help", "%s does not know what to do with %q", cmd.CommandPath(), args[0])
	}
	return nil
}

func checkCommand() *cobra.Command {
	c := Default()
	cmd := &cobra.Command{
		Use: "check", Short: "Check the settings that leeward up would run with, and start nothing", Args: none,
		Long: "Check the settings that leeward up would run with: flags, then LEEWARD_* variables, then\n" +
			"DIR/leeward.yaml. Nothing is made, started or changed.",
	}
	take := c.take(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := take(); err != nil {
			return err
		}
		if err := c.check(); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "the settings are good")
		return nil
	}
	return cmd
}

func showCommand() *cobra.Command {
	c := Default()
	var origin bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show the settings that leeward up would run with", Args: none,
		Long: "Show the settings that leeward up would run with: flags, then LEEWARD_* variables, then\n" +
			"DIR/leeward.yaml, then what is built in. --origin says which of them it was.",
	}
	take := c.take(cmd)
	cmd.Flags().BoolVar(&origin, "origin", false, "also where each value came from")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := take(); err != nil {
			return err
		}
		if err := c.fill(); err != nil {
			return err
		}
		s := c.settings(cmd.Flags())
		return cli.Print(cmd, s, func(w io.Writer) {
			for _, i := range s.Items {
				line := i.Key + "\t" + cmp.Or(i.Value, "-")
				if origin {
					line += "\t" + i.Origin
				}
				fmt.Fprintln(w, line)
			}
		})
	}
	return cmd
}

// settings lists the values after fill, in the order of their names.
func (c *Config) settings(f *pflag.FlagSet) cli.Settings {
	s := cli.Settings{Schema: cli.SettingsSchema, File: filepath.Join(c.Dir, fileName)}
	own := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	names := Default()
	names.flags(own) // for the names only
	s.Items = append(s.Items, cli.Setting{Key: "dir", Value: c.Dir, Origin: cli.Origin(f.Lookup("dir"))})
	own.VisitAll(func(o *pflag.Flag) {
		given := f.Lookup(o.Name)
		// A flag points into c, so its value is what fill made of it.
		s.Items = append(s.Items, cli.Setting{Key: strings.ReplaceAll(o.Name, "-", "_"), Value: given.Value.String(), Origin: cli.Origin(given)})
	})
	return s
}
