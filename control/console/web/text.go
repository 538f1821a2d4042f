package web

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/push/crew"
)

// words are the functions of the templates.
var words = template.FuncMap{
	"joblink": joblink, "number": number, "size": func(v any) string { return bytesText(number(v)) }, "span": func(v any) string { return spanText(number(v)) },
	"age": age, "stamp": stamp, "tone": tone, "join": strings.Join, "plural": plural, "short": short,
	"say": phaseText, "next": func(p life.Phase) string { return nextTexts[p] }, "share": share, "when": when, "lower": strings.ToLower, "known": known, "since": func(t time.Time) float64 { return time.Since(t).Seconds() },
	"dict": dict, "did": did, "answers": answers, "add": func(a, b int) int { return a + b }, "pct": func(f float64) string { return fmt.Sprintf("%.1f", f) }, "hosttone": hostTone,
}

// number reads what templates have as numbers.
func number(v any) float64 {
	switch n := v.(type) {
	case int:
		return float64(n)
	case int64:
		return float64(n)
	case uint32:
		return float64(n)
	case uint64:
		return float64(n)
	case float64:
		return n
	case *float64:
		if n != nil {
			return *n
		}
	case *uint64:
		if n != nil {
			return float64(*n)
		}
	case time.Duration:
		return n.Seconds()
	}
	return 0
}

// known reports whether a number that may be missing is there.
func known(v any) bool {
	switch n := v.(type) {
	case *float64:
		return n != nil
	case *uint64:
		return n != nil
	}
	return v != nil
}

// bytesText writes bytes in binary units, three digits at most.
func bytesText(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for n >= 999.5 && i < len(units)-1 {
		n /= 1024
		i++
	}
	if i == 0 || n >= 99.95 {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0") + " " + units[i]
}

// spanText writes seconds as people say them: at most two units.
func spanText(s float64) string {
	d := time.Duration(s * float64(time.Second))
	m, h := int(d.Minutes()), int(d.Hours())
	switch {
	case d < 0:
		return "0 s"
	case d < time.Second && d > 0:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case m < 10:
		return fmt.Sprintf("%d min %02d s", m, int(d.Seconds())%60)
	case m < 120:
		return fmt.Sprintf("%d min", m)
	case h < 48:
		return fmt.Sprintf("%d h %02d min", h, m%60)
	}
	return fmt.Sprintf("%d days", h/24)
}

// age writes how long ago something was; a script keeps it right.
func age(t time.Time) template.HTML {
	if t.IsZero() {
		return "–"
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s" data-age>%s</time>`, t.UTC().Format(time.RFC3339Nano), stamp(t), spanText(time.Since(t).Seconds())))
}

// stamp writes a time in UTC.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05") + " UTC"
}

// when is a stamp that says its own day only if it is not today.
func when(t time.Time) template.HTML {
	if t.IsZero() {
		return "–"
	}
	text := t.UTC().Format("15:04:05")
	if now := time.Now().UTC(); t.UTC().YearDay() != now.YearDay() || t.UTC().Year() != now.Year() {
		text = t.UTC().Format("2 Jan 15:04")
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, t.UTC().Format(time.RFC3339), stamp(t), text))
}

// tone is how good or bad a state of anything is: ok, warn, bad, busy or off.
func tone(v any) string {
	switch s := fmt.Sprint(v); s {
	case "healthy", string(failover.Alive), "ok", "done", "info", string(life.FailedOver), string(life.Committed), string(life.Ready), string(life.Returned), "passed", "true":
		return "ok"
	case "warning", string(failover.Interrupted), string(plan.RunWarnings), string(plan.Ignored), string(plan.Asking), string(plan.RunAsking), "cancelled":
		return "warn"
	case "critical", string(failover.Failed), "error", string(life.Down), "false":
		return "bad"
	case "not-applicable", string(failover.Cleaned), "skipped", "waiting", string(life.Disabled), string(life.Migrated), string(life.Protected):
		return "off"
	default:
		return "busy"
	}
}

// hostTone is how it goes on a host.
func hostTone(v crew.Visit) string {
	switch {
	case v.Error != "":
		return "bad"
	case v.Done:
		return "ok"
	}
	return "busy"
}

// phases are the phases as people say them.
var phases = map[life.Phase]string{
	life.Protected: "protected", life.Checking: "checking the recovery point", life.Draining: "making the final point", life.Fencing: "fencing the source",
	life.Stopping: "stopping the source", life.Bringing: "bringing the copy up", life.FailedOver: "failed over", life.Down: "failover failed",
	life.Changing: "changing the recovery point", life.Ending: "ending the copy", life.Releasing: "letting the source write again", life.Committed: "failed over and committed",
	life.Reprotecting: "re-protecting", life.Ready: "re-protected, ready to fail back", life.Unprotecting: "ending re-protection", life.Returning: "failing back",
	life.Returned: "failed back, not committed", life.Staying: "cancelling the failback", life.Settling: "settling at home", life.Completing: "completing the migration",
	life.Migrated: "migrated", life.Disabling: "ending protection", life.Disabled: "not protected",
}

// nextTexts say of a phase in which nothing moves what that means, and what comes next.
var nextTexts = map[life.Phase]string{
	life.FailedOver: "It runs at the recovery site. What it writes there has no recovery points yet: look at it, commit it, then re-protect it.",
	life.Down:       "Its copy did not come up, and its source may not write. Choose another recovery point, or cancel.",
	life.Committed:  "It runs at the recovery site. What it writes there has no recovery points until it is re-protected.",
	life.Ready:      "It runs at the recovery site and has recovery points again. It can be brought home when home is ready.",
	life.Returned:   "Its disks are written at home. Start it there and look at it; then commit.",
	life.Migrated:   "It stays where it runs. Its source stays fenced.",
}

// phaseText writes a word of the API for people.
func phaseText(v any) string {
	if p, ok := v.(life.Phase); ok {
		return phases[p]
	}
	return strings.ReplaceAll(fmt.Sprint(v), "-", " ")
}

// plural writes a number with its noun.
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// short cuts an id where people do not need all of it.
func short(s string) string {
	if len(s) > 18 {
		return s[:8] + "…" + s[len(s)-6:]
	}
	return s
}

// joblink is the id of the job that the result of a plan's step names, and nothing else.
func joblink(result string) string {
	id, ok := strings.CutPrefix(result, "job ")
	if !ok || strings.ContainsAny(id, " /") {
		return ""
	}
	return id
}

// share is part of whole in percent, for widths.
func share(part, whole any) float64 {
	w := number(whole)
	if w <= 0 {
		return 0
	}
	return min(100*number(part)/w, 100)
}

// dict makes a map of pairs, for templates with several arguments.
func dict(pairs ...any) (map[string]any, error) {
	m := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		k, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("argument %d is no name", i)
		}
		m[k] = pairs[i+1]
	}
	return m, nil
}

// notices say what was done; an address names one, so that nobody else puts words there.
var notices = map[string]string{
	"cleanup": "The job is cleaned up: its machine is off and nothing of it is left.", "token-rm": "The token opens no door any more.",
	"revoke": "The agent is refused from now on.", "pin": "The point is kept, whatever the retention says.", "unpin": "The point goes by the retention again.",
	"group": "The group is changed.", "group-rm": "The group is gone; its points stay.", "policy": "The policies are written.", "policy-rm": "The policy is gone.",
	"plan": "A new version of the plan is written.", "plan-rm": "The plan is gone; its runs stay.", "drill": "The drill is written.", "drill-rm": "The drill is gone; its reports stay.",
	"user": "The user is written. Their sessions have ended.", "user-rm": "The user is gone. Their sessions have ended.", "life": "It is asked for. The page says how far it is.", "answer": "The answer is given.",
	"cleaning": "It is being cleaned up; this page says when that is done.", "note": "It is noted.", "cancel": "The run ends: nothing new is begun.",
}

func did(query string) string {
	_, rest, ok := strings.Cut(query, "did=")
	if !ok {
		return ""
	}
	word, _, _ := strings.Cut(rest, "&")
	return notices[word]
}
