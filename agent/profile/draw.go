package profile

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Draw prints a report for people.
func (r *Report) Draw(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Recorded for %v from %s on.\n\n", seconds(r.Seconds), r.Begun.Format(time.RFC3339))
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DISK\tDRIVER\tSIZE\tUSED\tCHANGED\tCOMPRESSES TO\tCHANGES OVER TIME")
	for _, d := range r.Disks {
		changed := int64(0)
		for _, s := range d.Samples {
			changed += s.Changed
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.0f %%\t%s\n", d.Path, d.Driver, size(float64(d.Size)), size(float64(d.Used)), size(float64(changed)), 100*d.Packed, bars(d.Samples, 40))
	}
	_ = t.Flush() // a strings.Builder takes everything
	fmt.Fprintf(&b, "\nChanges     mean %s/s, 95 %% of the time below %s/s, peak %s/s, %s a day\n", size(r.Churn.Mean), size(r.Churn.P95), size(r.Churn.Peak), size(float64(r.Churn.PerDay)))
	fmt.Fprintf(&b, "Vault       first copy %s, then %s a day; %s for %d days of points\n\n", size(float64(r.Vault.First)), size(float64(r.Vault.PerDay)), size(float64(r.Vault.Retained)), r.Vault.Days)
	fmt.Fprintln(t, "LINK\tFIRST COPY\tRPO MEDIAN\tRPO 95 %\tRPO WORST")
	for _, l := range r.Links {
		if !l.KeepsUp {
			fmt.Fprintf(t, "%s\t%v\tdoes not keep up\t\t\n", link(l.Mbit), seconds(l.FirstCopy))
			continue
		}
		fmt.Fprintf(t, "%s\t%v\t%v\t%v\t%v\n", link(l.Mbit), seconds(l.FirstCopy), seconds(l.RPOMedian), seconds(l.RPO95), seconds(l.RPOMax))
	}
	_ = t.Flush()
	fmt.Fprintln(&b)
	for _, n := range r.Needs {
		if n.Mbit < 0 {
			fmt.Fprintf(&b, "An RPO of %v is shorter than the time between points.\n", seconds(n.RPO))
			continue
		}
		fmt.Fprintf(&b, "An RPO of %v for 95 %% of the time needs %s.\n", seconds(n.RPO), link(n.Mbit))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// bars draws samples in at most width characters.
func bars(samples []Sample, width int) string {
	if len(samples) == 0 {
		return ""
	}
	width = min(width, len(samples))
	rates, top := make([]float64, width), 0.0
	for i := range rates {
		part := samples[i*len(samples)/width : (i+1)*len(samples)/width]
		took := 0.0
		for _, s := range part {
			rates[i] += float64(s.Changed)
			took += s.Seconds
		}
		rates[i] /= max(took, 1e-9)
		top = max(top, rates[i])
	}
	levels := []rune(" ▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, r := range rates {
		n := 0
		if r > 0 {
			n = 1 + int(r/top*float64(len(levels)-2))
		}
		b.WriteRune(levels[n])
	}
	return "|" + b.String() + "|"
}

func seconds(s float64) time.Duration {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d < time.Hour:
		return d.Round(time.Second)
	}
	return d.Round(time.Minute)
}

func size(b float64) string {
	for _, u := range []string{"B", "KiB", "MiB", "GiB"} {
		if b < 1024 {
			if u == "B" {
				return fmt.Sprintf("%.0f B", b)
			}
			return fmt.Sprintf("%.1f %s", b, u)
		}
		b /= 1024
	}
	return fmt.Sprintf("%.1f TiB", b)
}

func link(mbit float64) string {
	if mbit >= 1000 {
		return fmt.Sprintf("%.3g Gbit/s", mbit/1000)
	}
	return fmt.Sprintf("%.3g Mbit/s", mbit)
}
