package azure

import (
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/leeward-dr/leeward/control/target"
)

// Config says how machines are brought up.
type Config struct {
	Place    Place
	Isolated bool            // in a network of its own that leads nowhere
	Owner    string          // of what is kept of disks (see Kept), which is used if there is some; "" for never
	Instance string          // what the agent of a machine that is failed over calls itself there; see fixup.Agent
	Fixer    Fixer           // makes machines fit for Hyper-V; nil: they are sent as they are
	Progress target.Progress // may be nil
	Log      *slog.Logger    // may be nil

	poll  time.Duration // between two questions for an operation
	retry time.Duration // before a request is tried again; 0: what the SDK thinks good
	stay  time.Duration // between two tries to remove what is still in use

	// Instead of the real ones, for tests.
	transport  policy.Transporter
	credential azcore.TokenCredential
	pageBlob   func(name string) (*pageblob.Client, error)
	container  func() (c *container.Client, prefix string, err error)
}

// fill completes cfg.
func (cfg *Config) fill() {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int64, int64) {}
	}
	if cfg.poll == 0 {
		cfg.poll = 3 * time.Second
	}
	if cfg.stay == 0 {
		cfg.stay = 10 * time.Second
	}
}

// Tuning is what stands between us and Azure. It is for the tests of who uses this
// package: Tune.
type Tuning struct {
	Transport  policy.Transporter
	Credential azcore.TokenCredential
	Pause      time.Duration // instead of all pauses
	PageBlob   func(name string) (*pageblob.Client, error)
	// Container returns the one of the page blobs, and what the names there begin with.
	Container func() (c *container.Client, prefix string, err error)
}

// Tune returns cfg with other means to reach Azure.
func (cfg Config) Tune(t Tuning) Config {
	cfg.transport, cfg.credential, cfg.pageBlob, cfg.container = t.Transport, t.Credential, t.PageBlob, t.Container
	cfg.poll, cfg.retry, cfg.stay = t.Pause, t.Pause, t.Pause
	return cfg
}

// do fetches something that the service gave a signed address of.
func (cfg *Config) do(req *http.Request) (*http.Response, error) {
	if cfg.transport != nil {
		return cfg.transport.Do(req)
	}
	return http.DefaultClient.Do(req)
}

// maxFetched is how much is fetched of what a machine said or showed, in bytes.
const maxFetched = 16 << 20

func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, maxFetched)) }
