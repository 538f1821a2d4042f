package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/leeward-dr/leeward/control/target/azure"
)

// Options is what main gives to the command line.
type Options struct {
	Args    []string // without the program's name
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	Getenv  func(string) string
	Version Version
	Roles   []*cobra.Command // commands that start roles: up
	// Azure says how a place in Azure is reached; nil: with what azidentity finds.
	Azure func(azure.Place) azure.Config
}

// DefaultDir is where an appliance lives unless told otherwise.
const DefaultDir = "/var/lib/leeward"

// app is what the commands share.
type app struct {
	Options
	output  string
	server  string
	context string
	dir     string
	verbose bool
	// watching says that the same is printed again and again, over one connection.
	watching bool
	shared   *shared
}

// Main runs the command line and returns the exit code.
func Main(ctx context.Context, o Options) int {
	a := &app{Options: o}
	root := a.root()
	root.SetArgs(o.Args)
	root.SetIn(o.In)
	root.SetOut(o.Out)
	root.SetErr(o.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	code, message, try := classify(err)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		code = ExitInterrupted
	}
	if cmd.Name() == "check" && cmd.Parent() == root && code != ExitInterrupted {
		return checkFailed(o.Out, err)
	}
	if message != "" {
		fmt.Fprintf(o.Err, "leeward: %s\n", message)
	}
	if try != "" {
		fmt.Fprintf(o.Err, "try: %s\n", try)
	}
	if a.verbose {
		for e := err; e != nil; e = errors.Unwrap(e) {
			fmt.Fprintf(o.Err, "  %T: %v\n", e, e)
		}
	}
	return code
}

// Parse reads a command line as Main does and runs nothing: it reports what would be wrong
// with its words.
func Parse(o Options) error {
	a := &app{Options: o}
	c, rest, err := a.root().Find(o.Args)
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if help, _ := c.Flags().GetBool("help"); help {
		return nil
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		return err
	}
	if c.HasSubCommands() {
		return unknown(c, c.Flags().Args())
	}
	return nil
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "leeward",
		Short: "Disaster recovery for physical servers",
		Long: "Leeward streams the changed disk blocks of running servers into a vault, keeps recovery\n" +
			"points, and brings the machines up again from them.",
		SilenceErrors: true, SilenceUsage: true,
		Args:              cobra.ArbitraryArgs,
		RunE:              unknown,
		PersistentPreRunE: a.prepare,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return Usage(c.CommandPath()+" --help", "%v", err)
	})
	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", "table", "table, json or yaml")
	f.StringVar(&a.server, "server", "", "NATS server, e.g. nats://host:4222 (default: the context's)")
	f.StringVar(&a.context, "context", "", "nats CLI context: a file or a name (default: contexts/admin.json below --dir)")
	f.StringVar(&a.dir, "dir", DefaultDir, "the appliance's directory")
	f.BoolVar(&a.verbose, "verbose", false, "show the chain of causes of an error")
	root.AddCommand(a.groupCommand(), a.policyCommand(), a.planCommand(), a.drillCommand(), a.notifyCommand(), a.auditCommand())
	root.AddCommand(a.Roles...)
	root.AddCommand(
		a.statusCommand(), a.checkCommand(), a.machineCommand(), a.pointCommand(), a.failoverCommand(),
		a.jobCommand(), a.eventCommand(), a.vaultCommand(), a.streamCommand(), a.versionCommand(),
		a.consoleCommand(), a.tokenCommand(), a.agentCommand(), a.trustCommand(), a.traceCommand(), a.supportCommand(), a.manCommand(), a.masterTarget(), a.apiCommand(), a.fenceCommand(),
	)
	root.AddCommand(a.azureCommand(), a.standbyCommand())
	a.complete(root)
	return root
}

// noun makes a command that only holds verbs.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: unknown}
	c.AddCommand(verbs...)
	return c
}

// unknown answers a command that does not exist, or is only half written.
func unknown(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		try := c.CommandPath() + " --help"
		c.SuggestionsMinimumDistance = 2 // cobra's default is only set on its own path
		if s := c.SuggestionsFor(args[0]); len(s) > 0 {
			try = c.CommandPath() + " " + s[0]
		}
		return Usage(try, "%s has no command %q", c.CommandPath(), args[0])
	}
	if !c.HasParent() {
		return c.Help()
	}
	var verbs []string
	for _, v := range c.Commands() {
		if v.IsAvailableCommand() {
			verbs = append(verbs, v.Name())
		}
	}
	return Usage(c.CommandPath()+" --help", "%s needs a command: %s", c.CommandPath(), strings.Join(verbs, ", "))
}

// args wants exactly the named arguments; those in brackets may be absent.
func args(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		for i, n := range names {
			if i >= len(got) && !strings.HasPrefix(n, "[") {
				return Usage(c.CommandPath()+" --help", "%s needs %s", c.CommandPath(), n)
			}
		}
		if len(got) > len(names) {
			return Usage(c.CommandPath()+" --help", "%s does not know what to do with %q", c.CommandPath(), got[len(names)])
		}
		return nil
	}
}

// never from the environment: they take back a safety, and belong to one command.
var notFromEnv = map[string]bool{"confirm": true, "force": true, "help": true, "yes": true}

// prepare fills flags from the environment and checks those that all share.
func (a *app) prepare(c *cobra.Command, _ []string) error {
	if err := FromEnv(c.Flags(), a.Getenv); err != nil {
		return err
	}
	switch a.output {
	case "table", "json", "yaml":
		return nil
	}
	return Usage("", "--output is %q: use table, json or yaml", a.output)
}

// FromEnv sets every flag that was not given from the variable of its name:
// --key-file from LEEWARD_KEY_FILE.
func FromEnv(flags *pflag.FlagSet, getenv func(string) string) error {
	var first error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || notFromEnv[f.Name] {
			return
		}
		name := "LEEWARD_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		v := getenv(name)
		if v == "" {
			return
		}
		err := flags.Set(f.Name, v)
		if err != nil {
			err = Usage("", "%s: %v", name, err)
		} else {
			err = SetOrigin(flags, f.Name, name)
		}
		if first == nil {
			first = err
		}
	})
	return first
}

// terminal reports whether w is a terminal, and its width.
func terminal(w io.Writer) (width int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return width, true
}

func (a *app) note(format string, args ...any) { fmt.Fprintf(a.Err, format+"\n", args...) }
