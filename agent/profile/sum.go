package profile

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Schema of a Report as JSON.
const Schema = "leeward.profile.v1"

// Question is what Sum is asked.
type Question struct {
	Links     []float64     // megabits a second
	Targets   []float64     // RPO in seconds
	Interval  time.Duration // between recovery points
	Retention time.Duration // that points are kept
}

// Asked is the usual question.
func Asked() Question {
	return Question{Links: []float64{10, 50, 100, 500, 1000}, Targets: []float64{30, 60, 300, 900}, Interval: 5 * time.Second, Retention: 72 * time.Hour}
}

// Report is what replicating the disks would take.
type Report struct {
	Schema  string    `json:"schema"`
	Begun   time.Time `json:"begun"`
	Seconds float64   `json:"seconds"`
	Disks   []*Disk   `json:"disks"`
	Churn   Churn     `json:"churn"`
	Vault   Vault     `json:"vault"`
	Links   []Link    `json:"links"`
	Needs   []Need    `json:"needs"`
}

// Churn is what changes, of all disks, in bytes a second before compression.
type Churn struct {
	Mean   float64 `json:"mean"`
	P95    float64 `json:"p95"`
	Peak   float64 `json:"peak"`
	PerDay int64   `json:"per_day"` // bytes
	Ratio  float64 `json:"ratio"`   // compressed by raw
}

// Vault is the space to expect, in bytes.
type Vault struct {
	First    int64 `json:"first"`    // the first copy
	PerDay   int64 `json:"per_day"`  // of changes
	Retained int64 `json:"retained"` // first copy and changes of the retention
	Days     int   `json:"days"`
}

// Link is what to expect of a link. An RPO of -1 means that it does not keep up.
type Link struct {
	Mbit      float64 `json:"mbit"`
	KeepsUp   bool    `json:"keeps_up"`
	RPOMedian float64 `json:"rpo_median"`
	RPO95     float64 `json:"rpo_p95"`
	RPOMax    float64 `json:"rpo_max"`
	FirstCopy float64 `json:"first_copy_seconds"`
}

// Need is the link that keeps an RPO 95 % of the time.
type Need struct {
	RPO  float64 `json:"rpo"`
	Mbit float64 `json:"mbit"`
}

// Sum answers a question for disks that share a link.
func Sum(disks []*Disk, begun time.Time, q Question) *Report {
	r := &Report{Schema: Schema, Begun: begun, Disks: disks}
	load := sent(disks)
	raw, packed := 0.0, 0.0
	var rates []float64
	for _, s := range load {
		r.Seconds += s.seconds
		raw += s.raw
		packed += s.packed
		rates = append(rates, s.raw/s.seconds)
	}
	slices.Sort(rates)
	r.Churn.Ratio = 1
	if len(load) > 0 {
		r.Churn = Churn{Mean: raw / r.Seconds, P95: quantile(rates, 0.95), Peak: rates[len(rates)-1], PerDay: int64(raw / r.Seconds * 86400), Ratio: 1}
	}
	if raw > 0 {
		r.Churn.Ratio = packed / raw
	}
	first := 0.0
	for _, d := range disks {
		first += float64(d.Used) * d.Base
	}
	r.Vault.First, r.Vault.Days = int64(first), int(math.Ceil(q.Retention.Hours()/24))
	r.Vault.PerDay = int64(float64(r.Churn.PerDay) * r.Churn.Ratio)
	r.Vault.Retained = r.Vault.First + int64(float64(r.Vault.PerDay)*q.Retention.Hours()/24)
	for _, mbit := range q.Links {
		l := Link{Mbit: mbit, FirstCopy: first / bytesOf(mbit)}
		l.RPOMedian, l.RPO95, l.RPOMax, l.KeepsUp = rpo(load, bytesOf(mbit), q.Interval)
		r.Links = append(r.Links, l)
	}
	for _, t := range q.Targets {
		r.Needs = append(r.Needs, Need{t, need(load, t, q.Interval)})
	}
	return r
}

func bytesOf(mbit float64) float64 { return mbit * 1e6 / 8 }

type interval struct{ seconds, raw, packed float64 }

// sent adds up the disks' samples, the n-th of each at the same time.
func sent(disks []*Disk) []interval {
	n := 0
	for _, d := range disks {
		n = max(n, len(d.Samples))
	}
	all := make([]interval, n)
	for _, d := range disks {
		for i, s := range d.Samples {
			all[i].seconds = max(all[i].seconds, s.Seconds)
			all[i].raw += float64(s.Changed)
			all[i].packed += float64(s.Changed) * cmp.Or(d.Packed, 1)
		}
	}
	return slices.DeleteFunc(all, func(s interval) bool { return s.seconds <= 0 })
}

// rpo plays a recording over a link: what waits at the end of an interval must be sent
// before its changes are safe. A link keeps up if less waits at the end of the
// recording than a quarter of it carries.
func rpo(load []interval, link float64, every time.Duration) (median, p95, most float64, keepsUp bool) {
	if len(load) == 0 {
		return 0, 0, 0, true
	}
	waiting, total := 0.0, 0.0
	var ages []float64
	for _, s := range load {
		waiting = max(0, waiting+s.packed-link*s.seconds)
		total += s.seconds
		ages = append(ages, max(every.Seconds(), s.seconds)+waiting/link)
	}
	last := waiting
	slices.Sort(ages)
	if last > link*total/4 {
		return -1, -1, -1, false
	}
	return quantile(ages, 0.5), quantile(ages, 0.95), ages[len(ages)-1], true
}

// need is the slowest link, in megabits, that keeps an RPO for 95 % of the time; -1 if
// none does.
func need(load []interval, target float64, every time.Duration) float64 {
	ok := func(mbit float64) bool {
		_, p95, _, keepsUp := rpo(load, bytesOf(mbit), every)
		return keepsUp && p95 <= target
	}
	low, high := 0.01, 400e3
	if !ok(high) {
		return -1
	}
	for range 60 {
		if mid := math.Sqrt(low * high); ok(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// quantile of sorted values.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	return v[min(int(q*float64(len(v))), len(v)-1)]
}
