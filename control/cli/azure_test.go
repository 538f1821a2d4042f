package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
	"github.com/leeward-dr/leeward/control/api/apitest"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// What a run has left in Azure is listed, and removed when its id is typed again; what is
// printed is as its schema says.
func TestAzureDocuments(t *testing.T) {
	t.Parallel()
	s := azuritetest.Start(t)
	cloud := armtest.New(t, s.Endpoint, azuritetest.Account, azuritetest.Key)
	reach := func(p azure.Place) azure.Config {
		return azure.Config{Place: p, Isolated: true}.Tune(azure.Tuning{Transport: cloud, Credential: armtest.Credential(), Pause: time.Millisecond})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m := &target.Machine{Name: "web", CPUs: 1, Memory: 1 << 30, Firmware: "bios", Disks: []target.Disk{targettest.Mem("sda", make([]byte, 1<<20))}}
	run, err := azure.New(reach(azure.Place{Subscription: armtest.Subscription, ResourceGroup: armtest.Group, Region: armtest.Region})).Start(ctx, m, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.Stop(context.Background()) }) // it is removed below
	if res, err := run.Probe(ctx, target.Probe{Serial: "boot", Timeout: time.Minute}); err != nil || !res.Alive {
		t.Fatalf("it does not come up: %+v, %v", res, err)
	}
	ask := func(want int, args ...string) (doc map[string]any, said string) {
		t.Helper()
		var out, errs bytes.Buffer
		args = append([]string{"azure"}, args...)
		args = append(args, "--subscription", armtest.Subscription, "--resource-group", armtest.Group, "--region", armtest.Region, "-o", "json")
		if code := Main(ctx, Options{Args: args, In: strings.NewReader(""), Out: &out, Err: &errs, Getenv: func(string) string { return "" }, Azure: reach}); code != want {
			t.Fatalf("leeward %v: code %d, want %d: %s%s", args, code, want, out.String(), errs.String())
		}
		if want != ExitOK {
			return nil, errs.String()
		}
		if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
		if err := apitest.Resolve(t, DocumentSchema("leeward.azure.v1")).Validate(doc); err != nil || doc["schema"] != "leeward.azure.v1" {
			t.Errorf("leeward %v: not as its schema says: %v: %s", args, err, out.String())
		}
		return doc, errs.String()
	}
	doc, _ := ask(ExitOK, "ls")
	all, _ := doc["items"].([]any)
	if len(all) < 3 { // a machine, its disk and its interface at least
		t.Fatalf("listed: %v", doc)
	}
	id, _ := all[0].(map[string]any)["run"].(string)
	if _, said := ask(ExitRefused, "rm", id); !strings.Contains(said, "--confirm "+id) {
		t.Errorf("it does not say how to confirm: %s", said)
	}
	ask(ExitNotFound, "rm", "none", "--confirm", "none")
	if doc, _ := ask(ExitOK, "rm", id, "--confirm", id); len(doc["items"].([]any)) != len(all) {
		t.Errorf("removed: %v, want %d", doc, len(all))
	}
	if doc, _ := ask(ExitOK, "ls"); len(doc["items"].([]any)) != 0 {
		t.Errorf("left: %v", doc)
	}
}
