package report

import (
	"math"
	"testing"
)

func TestLine(t *testing.T) {
	if slope, fit := Line([]float64{1, 2, 4, 8}, []float64{13, 16, 22, 34}); math.Abs(slope-3) > 1e-9 || math.Abs(fit-1) > 1e-9 {
		t.Errorf("3x+10 has slope %v, fit %v", slope, fit)
	}
	if slope, fit := Line([]float64{1, 2, 3}, []float64{1, 0, 1}); slope != 0 || fit != 0 {
		t.Errorf("no line has slope %v, fit %v", slope, fit)
	}
	if slope, fit := Line([]float64{1, 2, 4, 8}, []float64{1, 4, 16, 64}); fit > 0.99 || slope <= 0 {
		t.Errorf("a square has slope %v, fit %v", slope, fit)
	}
	if slope, fit := Line(nil, nil); slope != 0 || fit != 0 {
		t.Errorf("nothing has slope %v, fit %v", slope, fit)
	}
}
