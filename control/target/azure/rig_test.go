package azure

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"

	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// limit is how long a flow may take: ten times and more of what it does.
const limit = 4 * time.Minute

// rig is an Azurite that all clouds of a test share: it takes seconds to start.
type rig struct{ *azuritetest.Server }

func (r rig) cloud(t testing.TB) *armtest.Cloud {
	return armtest.New(t, r.Endpoint, azuritetest.Account, azuritetest.Key)
}

func place() Place {
	return Place{Subscription: armtest.Subscription, ResourceGroup: armtest.Group, Region: armtest.Region, Subnet: armtest.Subnet, Account: armtest.Account}
}

func config(c *armtest.Cloud, p Place, isolated bool) Config {
	return Config{Place: p, Isolated: isolated}.Tune(Tuning{
		Transport: c, Credential: &azfake.TokenCredential{}, Pause: time.Millisecond, PageBlob: c.PageBlob, Container: c.Container,
	})
}

func testTarget(c *armtest.Cloud) *Target { return New(config(c, place(), true)) }

// content is a disk of size bytes with data here and there, also at its end.
func content(seed uint64, size int) []byte {
	b, rnd := make([]byte, size), rand.New(rand.NewPCG(seed, 7))
	for _, off := range []int{0, 64 << 10, 1 << 20, 4<<20 - 4096, size / 2 &^ 4095, size - 1536} {
		for i := off; i < min(off+12<<10, size); i++ {
			b[i] = byte(rnd.Uint32())
		}
	}
	return b
}

func machine(disks ...[]byte) *target.Machine {
	m := &target.Machine{Name: "web", CPUs: 2, Memory: 3 << 30, Firmware: "bios"}
	for i, b := range disks {
		m.Disks = append(m.Disks, targettest.Mem(fmt.Sprintf("sd%c", 'a'+i), b))
	}
	return m
}

var booted = target.Probe{Serial: "boot", Timeout: limit}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// flow brings a machine up and takes it away again. It returns what was wrong until the
// probe, and fails the test if anything is left.
func flow(t *testing.T, c *armtest.Cloud, tg *Target, m *target.Machine) error {
	t.Helper()
	ctx := ctxOf(t)
	dir := t.TempDir()
	run, err := tg.Start(ctx, m, dir)
	if err != nil {
		clean(t, c, dir)
		return err
	}
	res, err := run.Probe(ctx, booted)
	if err == nil && !res.Alive {
		err = fmt.Errorf("not alive: %v", res.Evidence)
	}
	noSecrets(t, dir, res, err)
	for try := 0; ; try++ { // an operator cleans up again
		serr := run.Stop(ctx)
		if serr == nil {
			break
		}
		if try == 2 {
			t.Errorf("stop: %v", serr)
			break
		}
	}
	clean(t, c, dir)
	return err
}

func clean(t *testing.T, c *armtest.Cloud, dir string) {
	t.Helper()
	if left := c.Left(t); len(left) > 0 {
		t.Errorf("left in the cloud: %v", left)
	}
	if sas, _ := filepath.Glob(filepath.Join(dir, "*.sas")); len(sas) > 0 {
		t.Errorf("signatures are left: %v", sas)
	}
}

// noSecrets fails the test if a signature stands where people look.
func noSecrets(t *testing.T, dir string, res *target.Result, err error) {
	t.Helper()
	seen := fmt.Sprint(err)
	if res != nil {
		seen += strings.Join(res.Evidence, "\n")
	}
	b, rerr := os.ReadFile(filepath.Join(dir, recordFile))
	if rerr != nil {
		t.Error(rerr)
	}
	for _, s := range []string{"sig=", armtest.Secret} {
		if strings.Contains(seen, s) {
			t.Errorf("a signature is shown: %s", seen)
		}
		if strings.Contains(string(b), s) {
			t.Errorf("a signature is in the record: %s", b)
		}
	}
}
