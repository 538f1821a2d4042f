package policy

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestDivide(t *testing.T) {
	hungry := Want{Hungry: true}
	for _, c := range []struct {
		total int64
		wants []Want
		want  []int64
	}{
		{1000, nil, nil},
		{1000, []Want{hungry}, []int64{1000}},
		{1000, []Want{{}}, []int64{1000}},
		{1000, []Want{{}, {}, {}, {}}, []int64{250, 250, 250, 250}},
		{1000, []Want{hungry, {}}, []int64{875, 125}},                            // one copies its disk, the other sleeps
		{1000, []Want{hungry, {Speed: 200}, hungry}, []int64{350, 300, 350}},     // 300: half as much again as it sent
		{1000, []Want{hungry, {Speed: 1 << 40}, hungry}, []int64{333, 333, 334}}, // who wants much gets no more than others
		{2, []Want{hungry, hungry, hungry}, []int64{1, 1, 1}},                    // a share of 0 would mean no bound
	} {
		if got := Divide(c.total, c.wants); !slices.Equal(got, c.want) {
			t.Errorf("%d between %+v: %v, want %v", c.total, c.wants, got, c.want)
		}
	}
}

func TestDivideIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int64Range(64<<10, 10<<30).Draw(t, "total")
		wants := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Want {
			return Want{Speed: rapid.Int64Range(0, 1<<34).Draw(t, "speed"), Hungry: rapid.Bool().Draw(t, "hungry")}
		}), 1, 200).Draw(t, "wants")
		shares := Divide(total, wants)
		n, sum, most := int64(len(wants)), int64(0), slices.Max(shares)
		for i, s := range shares {
			sum += s
			if s < total/n/floorPart {
				t.Fatalf("share %d is %d, below a quarter of the even share of %d between %d", i, s, total, n)
			}
			if wants[i].Hungry && s < most-most/100-n {
				t.Fatalf("one who is held back has %d, another %d", s, most)
			}
			if !wants[i].Hungry && s < wants[i].Speed && s < most-most/100-n {
				t.Fatalf("one who sends %d has %d, another %d", wants[i].Speed, s, most)
			}
		}
		if sum > total+n {
			t.Fatalf("%d were divided into %d", total, sum)
		}
		if sum < total-2*n {
			t.Fatalf("of %d only %d are given", total, sum)
		}
	})
}
