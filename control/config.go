package control

import (
	"fmt"

	"github.com/leeward-dr/leeward/control/health"
)

// Config of the control role.
type Config struct {
	Dir     string // where failover jobs are kept
	Version string // semantic version, shown by the service
	Health  health.Thresholds
	Lookups int // cuts that are looked up in the vault at once
}

// Default is what the appliance uses; Dir has no default.
func Default() Config {
	return Config{Version: "0.0.0", Health: health.Default(), Lookups: 4}
}

// Validate names the field that cannot work.
func (c Config) Validate() error {
	if c.Dir == "" {
		return fmt.Errorf("control.dir is empty: name a directory for failover jobs")
	}
	if c.Lookups < 1 || c.Lookups > 64 {
		return fmt.Errorf("control.lookups is %d: use 1 to 64", c.Lookups)
	}
	return c.Health.Validate()
}
