package console

import (
	"bufio"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/streams/timing"
)

// Family is a metric with its samples.
type Family struct {
	Name    string // ends in its unit; _total for counters
	Help    string // one line
	Kind    Kind
	Samples []Sample
}

// Kind of a metric.
type Kind string

// The kinds.
const (
	Gauge     Kind = "gauge"
	Counter   Kind = "counter"
	Histogram Kind = "histogram"
)

// Sample is one value. Labels are pairs of name and value.
type Sample struct {
	Labels []string
	Value  float64
	Part   string // of a histogram: "_bucket", "_sum" or "_count"
}

// OfCounts are the samples of a histogram in seconds; none if nothing was counted.
func OfCounts(c timing.Counts, labels ...string) (all []Sample) {
	if len(c.Buckets) == 0 {
		return nil
	}
	n, bounds := uint64(0), timing.Bounds()
	for i, b := range c.Buckets {
		n += b
		le := math.Inf(1)
		if i < len(bounds) {
			le = bounds[i].Seconds()
		}
		all = append(all, Sample{Labels: append(slices.Clone(labels), "le", number(le)), Value: float64(n), Part: "_bucket"})
	}
	return append(all, Sample{Labels: labels, Value: c.Sum.Seconds(), Part: "_sum"}, Sample{Labels: labels, Value: float64(n), Part: "_count"})
}

// Of makes a family without labels.
func Of(name, help string, kind Kind, value float64) Family {
	return Family{Name: name, Help: help, Kind: kind, Samples: []Sample{{Value: value}}}
}

// write writes families in Prometheus' text format, sorted by name. Families of the
// same name are put together.
func write(w io.Writer, all []Family) error {
	b := bufio.NewWriter(w)
	slices.SortStableFunc(all, func(x, y Family) int { return strings.Compare(x.Name, y.Name) })
	for i, f := range all {
		if i == 0 || all[i-1].Name != f.Name {
			b.WriteString("# HELP " + f.Name + " " + escape(f.Help, false) + "\n# TYPE " + f.Name + " " + string(f.Kind) + "\n")
		}
		for _, s := range f.Samples {
			b.WriteString(f.Name + s.Part)
			for k := 0; k+1 < len(s.Labels); k += 2 {
				sep := ","
				if k == 0 {
					sep = "{"
				}
				b.WriteString(sep + s.Labels[k] + `="` + escape(s.Labels[k+1], true) + `"`)
			}
			if len(s.Labels) > 1 {
				b.WriteByte('}')
			}
			b.WriteString(" " + number(s.Value) + "\n")
		}
	}
	return b.Flush()
}

func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case math.IsNaN(v):
		return "NaN"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

var (
	inHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	inLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func escape(s string, label bool) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if label {
		return inLabel.Replace(s)
	}
	return inHelp.Replace(s)
}
