package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
)

func (a *app) apiCommand() *cobra.Command {
	var offline bool
	schema := &cobra.Command{
		Use: "schema [NAME]", Short: "List the endpoints of control, or show what one takes and answers", Args: args("[NAME]"),
		Long: "List the endpoints of control with the least role that may ask each, or show the JSON schemas of one.\n" +
			"Anything that speaks NATS can ask them: nats req leeward.api.machine.ls '{}'.\n\n" +
			"A NAME like leeward.points.v1 is that of a document that commands print with -o json.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && strings.HasPrefix(args[0], "leeward.") {
				return a.documentSchema(args[0])
			}
			if offline {
				if len(args) == 0 {
					return a.contracts(api.Contracts())
				}
				c, err := api.ContractOf(args[0])
				if err != nil {
					return err
				}
				return a.contract(c)
			}
			return a.with(a.schema)(cmd, args)
		},
	}
	schema.Flags().BoolVar(&offline, "offline", false, "of this program's version, without asking control")
	return noun("api", "Look at what control can be asked for", schema)
}

// documentSchema shows the schema of what commands print.
func (a *app) documentSchema(name string) error {
	text := DocumentSchema(name)
	if text == nil {
		return api.Errorf(api.CodeNotFound, "see docs/ops/cli.md", "no command prints a document %s", name)
	}
	return a.print(text, func(w io.Writer) {
		var b bytes.Buffer
		_ = json.Indent(&b, text, "", "  ") // it was made by encoding/json
		fmt.Fprintln(w, b.String())
	})
}

func (a *app) schema(ctx context.Context, c *api.Client, args []string) error {
	if len(args) == 0 {
		all, err := c.Contracts(ctx)
		if err != nil {
			return err
		}
		return a.contracts(all)
	}
	one, err := c.Contract(ctx, args[0])
	if err != nil {
		return err
	}
	return a.contract(one)
}

func (a *app) contracts(all []api.Contract) error {
	return a.print(items("leeward.endpoints.v1", all), func(w io.Writer) {
		row(w, "NAME", "ROLE", "CHANGES", "ANSWER")
		for _, c := range all {
			changes := "-"
			if c.Changes {
				changes = "yes"
			}
			row(w, c.Name, c.Role, changes, c.Document)
		}
	})
}

func (a *app) contract(c *api.Contract) error {
	return a.print(c, func(w io.Writer) {
		row(w, "subject", c.Subject)
		row(w, "role", c.Role)
		for _, part := range []struct {
			name string
			text json.RawMessage
		}{{"request", c.Request}, {"answer", c.Response}} {
			var b bytes.Buffer
			if json.Indent(&b, part.text, "", "  ") != nil {
				b.Reset()
				b.Write(part.text)
			}
			fmt.Fprintf(w, "\n%s\n%s\n", part.name, b.String())
		}
	})
}
