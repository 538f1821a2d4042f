package fanin

import "github.com/leeward-dr/leeward/bench/report"

// fit puts straight lines through the rows.
func (r *Result) fit() {
	line := func(y func(Row) float64) (slope, fit float64) {
		var xs, ys []float64
		for _, row := range r.Rows {
			xs, ys = append(xs, float64(row.Disks)), append(ys, y(row))
		}
		return report.Line(xs, ys)
	}
	r.SecondsPerDisk, r.SecondsFit = line(func(r Row) float64 { return r.Round.Seconds() })
	r.CPUPerDisk, r.CPUFit = line(func(r Row) float64 { return r.CPU.Seconds() })
	r.BytesPerDisk, r.BytesFit = line(func(r Row) float64 { return float64(r.RSS) })
}
