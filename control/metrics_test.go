package control

import (
	"fmt"
	"testing"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/health"
)

// Two series with the same labels would make Prometheus refuse all of them.
func TestIssuesAreSaidOnce(t *testing.T) {
	m := api.Machine{Machine: "web", Issues: []health.Issue{
		{Code: "resync", Disk: "sda", Level: health.Warning}, {Code: "resync", Disk: "sdb", Level: health.Warning}, {Code: "no-point", Level: health.Warning},
		{Code: "resync", Disk: "sda", Level: health.Warning, Cause: "again"}, {Code: "no-point", Level: health.Critical},
	}}
	got := ""
	for _, s := range issueSamples(m) {
		got += fmt.Sprintln(s.Labels, s.Value)
	}
	want := "[machine web code no-point level critical] 1\n[machine web code resync level warning disk sda] 1\n[machine web code resync level warning disk sdb] 1\n"
	if got != want {
		t.Errorf("%swant\n%s", got, want)
	}
	if len(issueSamples(api.Machine{Machine: "web"})) != 0 {
		t.Error("a healthy machine has issues")
	}
}
