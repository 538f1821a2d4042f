package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Sample is one tool doing one step once.
type Sample struct {
	Tool   string  `json:"tool"`
	Step   string  `json:"step"`
	Run    int     `json:"run"`
	Wall   float64 `json:"wall_seconds,omitempty"`
	CPU    float64 `json:"cpu_seconds,omitempty"`
	RSS    int64   `json:"rss_bytes,omitempty"`
	Stored int64   `json:"stored_bytes,omitempty"` // what the step added
	Busy   float64 `json:"others_cpu_seconds,omitempty"`
	Note   string  `json:"note,omitempty"`
	Err    string  `json:"error,omitempty"` // why there is no figure
}

// Goal is a figure with what it is held against.
type Goal struct {
	Figure  string  `json:"figure"`
	Ours    string  `json:"ours"`
	Against string  `json:"against"` // what, with its own figure
	Ratio   float64 `json:"ratio"`   // 0: not taken
	Limit   float64 `json:"limit"`   // the ratio that is wanted
	AtLeast bool    `json:"at_least"`
	Why     string  `json:"why,omitempty"` // it could not be taken
}

// Met says whether the goal is reached.
func (g Goal) Met() bool {
	if g.Why != "" {
		return false
	}
	if g.AtLeast {
		return g.Ratio >= g.Limit
	}
	return g.Ratio <= g.Limit
}

// Results is everything of one run.
type Results struct {
	Schema  string            `json:"schema"` // "leeward.bench.v1"
	Time    time.Time         `json:"time"`
	Facts   map[string]string `json:"facts"` // of the machine and the run
	Corpus  any               `json:"corpus,omitempty"`
	Limits  any               `json:"limits,omitempty"`
	Samples []Sample          `json:"samples,omitempty"`
	Goals   []Goal            `json:"goals,omitempty"`
	Notes   []string          `json:"notes,omitempty"`
	Detail  any               `json:"detail,omitempty"` // of a single scenario
}

// Of returns the good samples of a tool's step.
func (r *Results) Of(tool, step string) (s []Sample) {
	for _, x := range r.Samples {
		if x.Tool == tool && x.Step == step && x.Err == "" {
			s = append(s, x)
		}
	}
	return s
}

// Why returns the reason that a tool's step has no figure.
func (r *Results) Why(tool, step string) string {
	for _, x := range r.Samples {
		if x.Tool == tool && x.Step == step && x.Err != "" {
			return x.Err
		}
	}
	return "was not run"
}

// Take returns the median of what get finds in the good samples of a tool's step,
// NaN if there are none.
func (r *Results) Take(tool, step string, get func(Sample) float64) float64 {
	var x []float64
	for _, s := range r.Of(tool, step) {
		x = append(x, get(s))
	}
	return Median(x)
}

// Save writes the results to a new file in dir and returns its path.
func (r *Results) Save(dir, name string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("keep results: %w", err)
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", fmt.Errorf("keep results: %w", err)
	}
	path := filepath.Join(dir, r.Time.UTC().Format("20060102T150405")+"-"+name+".json")
	return path, os.WriteFile(path, append(b, '\n'), 0o644)
}

// Table prints rows in columns; the first row is the head.
func Table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
}

// Facts prints what is known of the machine and the run.
func Facts(w io.Writer, facts map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(facts)) {
		fmt.Fprintf(w, "  %-10s %s\n", k, facts[k])
	}
}

// Steps prints a table for each step: medians of every tool, the best wall time
// first.
func (r *Results) Steps(w io.Writer, steps []string) {
	for _, step := range steps {
		rows := [][]string{{"tool", "runs", "wall s", "(min-max)", "cpu s", "peak MiB", "stored MB", "others' cpu s", "note"}}
		for _, tool := range r.tools(step) {
			s := r.Of(tool, step)
			if len(s) == 0 {
				rows = append(rows, []string{tool, "0", "-", "", "-", "-", "-", "-", "no figure: " + r.Why(tool, step)})
				continue
			}
			var wall, cpu, rss, stored, busy []float64
			for _, x := range s {
				wall, cpu, busy = append(wall, x.Wall), append(cpu, x.CPU), append(busy, x.Busy)
				rss, stored = append(rss, float64(x.RSS)/(1<<20)), append(stored, float64(x.Stored)/1e6)
			}
			rows = append(rows, []string{
				tool, fmt.Sprint(len(s)), fmt.Sprintf("%.3f", Median(wall)),
				fmt.Sprintf("(%.3f-%.3f)", slices.Min(wall), slices.Max(wall)),
				number("%.2f", Median(cpu)), number("%.0f", Median(rss)), number("%.1f", Median(stored)), fmt.Sprintf("%.1f", Median(busy)), s[0].Note,
			})
		}
		fmt.Fprintf(w, "\n%s\n", strings.ToUpper(step[:1])+step[1:])
		Table(w, rows)
	}
}

// number leaves out what was not measured.
func number(format string, x float64) string {
	if x == 0 || math.IsNaN(x) {
		return "-"
	}
	return fmt.Sprintf(format, x)
}

// tools lists who has samples of a step, the fastest first.
func (r *Results) tools(step string) (names []string) {
	wall := map[string]float64{}
	for _, s := range r.Samples {
		if s.Step == step && !slices.Contains(names, s.Tool) {
			names = append(names, s.Tool)
			wall[s.Tool] = r.Take(s.Tool, step, func(s Sample) float64 { return s.Wall })
		}
	}
	slices.SortStableFunc(names, func(a, b string) int {
		switch x, y := wall[a], wall[b]; {
		case math.IsNaN(x) && math.IsNaN(y), x == y:
			return 0
		case math.IsNaN(y), x < y:
			return -1
		default:
			return 1
		}
	})
	return names
}

// PrintGoals prints the goals with figures side by side.
func PrintGoals(w io.Writer, goals []Goal) {
	rows := [][]string{{"figure", "ours", "against", "ratio", "goal", ""}}
	for _, g := range goals {
		sign, verdict := "<=", "MISSED"
		if g.AtLeast {
			sign = ">="
		}
		if g.Met() {
			verdict = "met"
		}
		ratio := fmt.Sprintf("%.2f", g.Ratio)
		if g.Why != "" {
			ratio, verdict = "-", "not taken: "+g.Why
		}
		rows = append(rows, []string{g.Figure, g.Ours, g.Against, ratio, fmt.Sprintf("%s %.2f", sign, g.Limit), verdict})
	}
	Table(w, rows)
}
