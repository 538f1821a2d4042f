package product

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Build makes both programs in dir, for tests: from the source around the present
// directory.
func Build(ctx context.Context, dir string) (Binaries, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	const module = "github.com/leeward-dr/leeward"
	b := Binaries{Leeward: filepath.Join(dir, "leeward"), Agent: filepath.Join(dir, "leeward-agent")}
	for out, pkg := range map[string]string{b.Leeward: module, b.Agent: module + "/agent/leeward-agent"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			return b, fmt.Errorf("build %s: %w\n%s", pkg, err, msg)
		}
	}
	return b, nil
}
