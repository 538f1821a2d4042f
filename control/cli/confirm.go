package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/leeward-dr/leeward/control/api"
)

// typed says what will be done and has a name typed again.
func (a *app) typed(what, name string, into *string) error {
	fmt.Fprintf(a.Err, "this will %s\ntype %s to go on: ", what, name)
	line, err := bufio.NewReader(a.In).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the confirmation: %w", err)
	}
	if *into = strings.TrimSpace(line); *into != name {
		return api.Errorf(api.CodeRefused, "type the name, or give it: --confirm "+name, "not confirmed, nothing was done")
	}
	return nil
}

// careful gives commands that remove something the flag --confirm. At a terminal the name
// is asked for; a script has none, and knows what it does. what says what is removed of the
// argument that is named.
func (a *app) careful(c *cobra.Command, what func(name string) string) *cobra.Command {
	var given string
	c.Flags().StringVar(&given, "confirm", "", "the `name` again, instead of typing it when asked at a terminal")
	run := c.RunE
	c.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		switch {
		case given != "" && given != name:
			return api.Errorf(api.CodeRefused, "--confirm "+name, "not confirmed, nothing was done")
		case given == "" && a.atTerminal():
			if err := a.typed(what(name), name, &given); err != nil {
				return err
			}
		}
		return run(cmd, args)
	}
	return c
}

// atTerminal reports whether a person can be asked: input is a terminal.
func (a *app) atTerminal() bool {
	f, ok := a.In.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
