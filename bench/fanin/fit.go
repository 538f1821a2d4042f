package fanin

// fit puts straight lines through the rows.
func (r *Result) fit() {
	line := func(y func(Row) float64) (slope, fit float64) {
		var xs, ys []float64
		for _, row := range r.Rows {
			xs, ys = append(xs, float64(row.Disks)), append(ys, y(row))
		}
		return Line(xs, ys)
	}
	r.SecondsPerDisk, r.SecondsFit = line(func(r Row) float64 { return r.Round.Seconds() })
	r.CPUPerDisk, r.CPUFit = line(func(r Row) float64 { return r.CPU.Seconds() })
	r.BytesPerDisk, r.BytesFit = line(func(r Row) float64 { return float64(r.RSS) })
}

// Line fits a straight line by least squares, and returns its slope and the part of
// the variance that it explains (R squared): 1 is a straight line. Both are 0 for
// fewer than two points.
func Line(x, y []float64) (slope, fit float64) {
	n := float64(len(x))
	if len(x) < 2 {
		return 0, 0
	}
	var mx, my float64
	for i := range x {
		mx, my = mx+x[i]/n, my+y[i]/n
	}
	var xx, xy, yy float64
	for i := range x {
		xx += (x[i] - mx) * (x[i] - mx)
		xy += (x[i] - mx) * (y[i] - my)
		yy += (y[i] - my) * (y[i] - my)
	}
	if xx == 0 || yy == 0 {
		return 0, 0
	}
	return xy / xx, xy * xy / xx / yy
}
