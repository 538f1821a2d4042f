package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
)

// watched lets commands be shown again and again. On a terminal each showing replaces the
// one before; elsewhere they follow each other, as JSON one document a line.
func (a *app) watched(all ...*cobra.Command) {
	for _, c := range all {
		var watch bool
		var every time.Duration
		once := c.RunE
		c.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again until Ctrl-C; with -o json one document a line")
		c.Flags().DurationVar(&every, "interval", time.Second, "pause between two showings of --watch")
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if !watch {
				return once(cmd, args)
			}
			a.watching = true
			defer a.hangUp()
			ctx := cmd.Context()
			t := time.NewTicker(max(every, 100*time.Millisecond))
			defer t.Stop()
			for {
				err := once(cmd, args)
				if ctx.Err() != nil {
					return nil // Ctrl-C is how one ends it
				}
				if err != nil {
					return err
				}
				select {
				case <-ctx.Done():
					return nil
				case <-t.C:
				}
			}
		}
	}
}

// shared is a connection that all showings of a watch use.
type shared struct {
	client *api.Client
	close  func()
}

func (a *app) hangUp() {
	if a.shared != nil {
		a.shared.close()
		a.shared = nil
	}
}

// clear makes room for the next showing on a terminal.
func (a *app) clear() {
	if _, tty := terminal(a.Out); tty {
		fmt.Fprint(a.Out, "\x1b[H\x1b[2J")
	}
}
