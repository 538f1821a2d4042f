package control

import (
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/streams"
)

// Role is the role (bus.AcquireRole) that the active control has: others wait.
const Role = "control"

// Config of the control role.
type Config struct {
	Dir     string // where failover jobs are kept
	Version string // semantic version, shown by the service
	Health  health.Thresholds
	Lookups int // cuts that are looked up in the vault at once

	DrillEvery   time.Duration   // how often drills are looked at
	NotifyEvery  time.Duration   // how often health is looked at for notifications
	TidyEvery    time.Duration   // how often points are removed that no policy keeps; 0: never
	Keeper       failover.Keeper // how machines outlive control; zero: they do not
	Azure        failover.Azure  // how machines come up there; no file: Dir/azure.yaml
	StandbyEvery time.Duration   // how often it is looked whether copies in Azure are near their points
	TidyRate     int64           // bytes a second that this may read and write; 0: no bound
	Home         Home            // leads machines home after a failover; nil: nobody does
	ReversePool  streams.Pool    // whose process servers handle what re-protected machines write

	// For tests: instead of what Keeper has.
	targets func(failover.Request, target.Progress) (target.Target, error)
	adopt   func(dir string) (target.Running, error)
}

// Default is what the appliance uses; Dir has no default.
func Default() Config {
	return Config{Version: "0.0.0", Health: health.Default(), Lookups: 4, DrillEvery: 5 * time.Second, NotifyEvery: 10 * time.Second, TidyEvery: 10 * time.Minute, TidyRate: 64 << 20, StandbyEvery: 30 * time.Second}
}

// Validate names the field that cannot work.
func (c Config) Validate() error {
	if c.Dir == "" {
		return fmt.Errorf("control.dir is empty: name a directory for failover jobs")
	}
	if c.Lookups < 1 || c.Lookups > 64 {
		return fmt.Errorf("control.lookups is %d: use 1 to 64", c.Lookups)
	}
	if c.NotifyEvery <= 0 || c.TidyEvery < 0 || c.TidyRate < 0 {
		return fmt.Errorf("control.notify_every is %v and control.tidy_every %v, control.tidy_rate is %d: use positive values, for the last two also 0", c.NotifyEvery, c.TidyEvery, c.TidyRate)
	}
	if c.StandbyEvery <= 0 {
		return fmt.Errorf("control.standby_every is %v: use a positive time", c.StandbyEvery)
	}
	if c.DrillEvery <= 0 {
		return fmt.Errorf("control.drill_every is %v: use a positive time", c.DrillEvery)
	}
	if err := c.ReversePool.Validate(); err != nil {
		return err
	}
	return c.Health.Validate()
}
