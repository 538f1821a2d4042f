package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/health"
)

// The codes of monitoring plugins, which leeward check alone uses.
const (
	checkOK       = 0
	checkWarning  = 1
	checkCritical = 2
	checkUnknown  = 3
)

var checkWords = []string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}

func (a *app) checkCommand() *cobra.Command {
	var warn, crit time.Duration
	var machine string
	c := &cobra.Command{
		Use: "check", Short: "Monitoring plugin: exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if warn <= 0 || crit < warn {
				return Usage("", "--warn %v and --crit %v: use two positive durations, the smaller for --warn", warn, crit)
			}
			client, done, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := context.WithTimeout(cmd.Context(), connectTime) // a monitor does not wait long
			defer cancel()
			st, err := client.Status(ctx)
			if err != nil {
				return err
			}
			all, err := client.Machines(ctx, api.Query{Machine: machine})
			if err != nil {
				return err
			}
			if len(all) == 0 && machine != "" {
				return api.Errorf(api.CodeNotFound, "", "no machine %s is known", machine)
			}
			code, text := judge(st, all, warn, crit)
			fmt.Fprintln(a.Out, text)
			if code != checkOK {
				return &Exit{Code: code}
			}
			return nil
		},
	}
	c.Flags().DurationVar(&warn, "warn", time.Minute, "RPO of any machine beyond which it is a warning")
	c.Flags().DurationVar(&crit, "crit", 5*time.Minute, "RPO beyond which it is critical")
	c.Flags().StringVar(&machine, "machine", "", "look at this machine only")
	return c
}

// judge makes the plugin's line: a word, what is wrong, and perfdata.
func judge(st *api.Status, all []api.Machine, warn, crit time.Duration) (int, string) {
	code, worst, points := checkOK, 0.0, 0
	var wrong []string
	raise := func(c int, format string, args ...any) {
		code = max(code, c)
		wrong = append(wrong, fmt.Sprintf(format, args...))
	}
	if len(all) == 0 {
		raise(checkWarning, "no machine is protected")
	}
	for _, m := range all {
		points += m.Points
		switch {
		case m.RPO == nil:
			raise(checkCritical, "%s has no recovery point", m.Machine)
		case *m.RPO > crit.Seconds():
			raise(checkCritical, "%s: RPO %s", m.Machine, seconds(*m.RPO))
		case *m.RPO > warn.Seconds():
			raise(checkWarning, "%s: RPO %s", m.Machine, seconds(*m.RPO))
		}
		if m.RPO != nil {
			worst = max(worst, *m.RPO)
		}
		for _, i := range m.Issues {
			if i.Code == "rpo-exceeded" || i.Code == "no-point" {
				continue // judged by --warn and --crit
			}
			c := checkWarning
			if i.Level == health.Critical {
				c = checkCritical
			}
			raise(c, "%s: %s", m.Machine, i.Cause)
		}
	}
	text := fmt.Sprintf("%d machines, worst RPO %s", len(all), seconds(worst))
	if len(wrong) > 0 {
		text = strings.Join(wrong, "; ")
	}
	text = strings.ReplaceAll(text, "|", "/") // the bar starts the perfdata
	return code, fmt.Sprintf("LEEWARD %s - %s | rpo=%.0fs;%.0f;%.0f points=%d backlog=%dB",
		checkWords[code], text, worst, warn.Seconds(), crit.Seconds(), points, st.BacklogBytes)
}

// checkFailed says that nothing is known. A plugin speaks on stdout.
func checkFailed(out io.Writer, err error) int {
	if e, ok := errors.AsType[*Exit](err); ok && e.Err == nil {
		return e.Code
	}
	_, message, try := classify(err)
	if try != "" {
		message += " (try: " + try + ")"
	}
	fmt.Fprintf(out, "LEEWARD UNKNOWN - %s\n", strings.ReplaceAll(message, "|", "/"))
	return checkUnknown
}
