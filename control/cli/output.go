package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"
)

// print writes v as JSON or YAML, or lets table write for people.
func (a *app) print(v any, table func(w io.Writer)) error {
	switch a.output {
	case "json":
		if a.watching {
			return a.line(v)
		}
		e := json.NewEncoder(a.Out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	case "yaml":
		if a.watching {
			fmt.Fprintln(a.Out, "---")
		}
		return writeYAML(a.Out, v)
	}
	if a.watching {
		a.clear()
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// line writes v as one line of JSON, for output that goes on.
func (a *app) line(v any) error {
	e := json.NewEncoder(a.Out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeYAML writes the JSON document of v as YAML, with the same names in the
// same order: JSON is YAML, only its style changes.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return err
	}
	plain(&doc)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(&doc); err != nil {
		return err
	}
	return e.Close()
}

func plain(n *yaml.Node) {
	empty := len(n.Content) == 0 && (n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode)
	if !empty {
		n.Style = 0 // an empty list stays [] in flow style
	}
	for _, c := range n.Content {
		plain(c)
	}
}

// document is a list as JSON and YAML show it.
type document[T any] struct {
	Schema string `json:"schema"`
	Items  []T    `json:"items"`
}

func items[T any](schema string, all []T) document[T] {
	if all == nil {
		all = []T{}
	}
	return document[T]{Schema: schema, Items: all}
}

// row writes one line of a table.
func row(w io.Writer, cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = fmt.Sprint(c)
		if text[i] == "" {
			text[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(text, "\t"))
}

// size writes bytes in binary units.
func size[N int64 | uint64](n N) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if f == float64(int64(f)) {
		return fmt.Sprintf("%d %ciB", int64(f), units[i])
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// span writes a duration in at most two units.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func seconds(s float64) string { return span(time.Duration(s * float64(time.Second))) }

// ago writes how long ago t was; "-" for no time.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(time.Since(t)) + " ago"
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
