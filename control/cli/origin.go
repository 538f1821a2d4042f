package cli

import (
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// originKey is the annotation of a flag that says where its value came from.
const originKey = "leeward-origin"

// SetOrigin notes that a flag's value came from somewhere else than the command
// line, e.g. "LEEWARD_LISTEN" or "leeward.yaml line 3".
func SetOrigin(flags *pflag.FlagSet, name, origin string) error {
	return flags.SetAnnotation(name, originKey, []string{origin})
}

// Origin says where a flag's value came from: what SetOrigin noted, its own name for
// the command line, or "default".
func Origin(f *pflag.Flag) string {
	switch o := f.Annotations[originKey]; {
	case len(o) > 0:
		return o[0]
	case f.Changed:
		return "--" + f.Name
	}
	return "default"
}

// Print writes v in the form that --output names, for commands of roles. Cells of
// the table are parted by tabs.
func Print(c *cobra.Command, v any, table func(io.Writer)) error {
	o, err := c.Flags().GetString("output")
	if err != nil {
		return err
	}
	a := &app{Options: Options{Out: c.OutOrStdout()}, output: o}
	return a.print(v, table)
}
