package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/session"
	"github.com/leeward-dr/leeward/streams/trust"
)

func (a *app) consoleCommand() *cobra.Command {
	var role, at string
	login := &cobra.Command{
		Use: "login", Short: "Print an address that signs a browser in to the console, once", Args: args(),
		Long: "Print an address that signs a browser in to the console. It is good once, for " + session.CodeLife.String() + ".\n\n" +
			"Who may sign in as what is the bus's word: the ready-made admin may take any role, others their own and those below it.",
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			r, err := roleOf(role)
			if err != nil {
				return err
			}
			l, err := c.NewLogin(ctx, r)
			if err != nil {
				return err
			}
			if at != "" {
				l.URL = strings.TrimSuffix(at, "/")
			}
			return a.print(l, func(w io.Writer) {
				if l.URL == "" {
					fmt.Fprintf(w, "%s\n", l.Code)
					a.note("control does not know where its console is: open the management port (--manage) in a browser, and enter this code")
					return
				}
				fmt.Fprintf(w, "%s/login?code=%s\n", l.URL, url.QueryEscape(l.Code))
				a.note("signs in as %s, once, until %s", l.Role, stamp(l.Expires))
			})
		}),
	}
	login.Flags().StringVar(&role, "role", string(trust.Operator), "viewer, tester, operator or admin")
	login.Flags().StringVar(&at, "url", "", "how the browser reaches the console, e.g. https://dr.example.com (default: what control knows)")
	return noun("console", "Sign in to the web console, and who may", login, a.consoleUsers())
}

func roleOf(word string) (trust.Role, error) {
	for _, r := range session.Roles() {
		if string(r) == word {
			return r, nil
		}
	}
	return "", Usage("", "--role is %q: use one of %v", word, session.Roles())
}

func (a *app) consoleUsers() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List who signs in with a password", Args: args(),
		RunE: a.with(func(ctx context.Context, c *api.Client, _ []string) error {
			all, err := c.Users(ctx)
			if err != nil {
				return err
			}
			return a.print(items("leeward.users.v1", all), func(w io.Writer) {
				if len(all) == 0 {
					fmt.Fprintln(w, "no user: make one with leeward console user set NAME --role viewer, or sign in with leeward console login")
					return
				}
				row(w, "NAME", "ROLE", "CHANGED", "BY")
				for _, u := range all {
					row(w, u.Name, u.Role, stamp(u.Changed), u.By)
				}
			})
		}),
	}
	var role, file string
	set := &cobra.Command{
		Use: "set NAME --role ROLE", Short: "Make a user, or change role and password; their sessions end", Args: args("NAME"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error {
			r, err := roleOf(role)
			if err != nil {
				return err
			}
			password, err := a.password(file)
			if err != nil {
				return err
			}
			u, err := c.SetUser(ctx, api.UserRequest{Name: args[0], Role: r, Password: password})
			if err != nil {
				return err
			}
			return a.print(u, func(w io.Writer) { fmt.Fprintf(w, "%s signs in as %s\n", u.Name, u.Role) })
		}),
	}
	set.Flags().StringVar(&role, "role", string(trust.Viewer), "viewer, tester, operator or admin")
	set.Flags().StringVar(&file, "password-file", "", "`file` whose first line is the password (default: asked on the terminal, or a line of standard input)")
	rm := &cobra.Command{
		Use: "rm NAME", Short: "Remove a user; their sessions end", Args: args("NAME"),
		RunE: a.with(func(ctx context.Context, c *api.Client, args []string) error { return c.DeleteUser(ctx, args[0]) }),
	}
	return noun("user", "Who signs in with a password", ls, set, rm)
}

// password reads a password: never from an argument, which every user of the machine
// could read.
func (a *app) password(file string) (string, error) {
	in := a.In
	switch f, ok := a.In.(*os.File); {
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		defer f.Close()
		in = f
	case ok && term.IsTerminal(int(f.Fd())):
		fmt.Fprint(a.Err, "password: ")
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.Err)
		return string(b), err
	}
	line, err := bufio.NewReader(io.LimitReader(in, 4<<10)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
