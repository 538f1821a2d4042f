package cli

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Version says which build this is. Schema "leeward.version.v1".
type Version struct {
	Schema   string `json:"schema"`
	Version  string `json:"version"` // semantic version without a leading v
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"` // built from a tree with changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// ThisVersion reads the build's own record. stamp, if not empty, is the version
// that the linker was told.
func ThisVersion(stamp string) Version {
	v := Version{Schema: "leeward.version.v1", Version: "0.0.0", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if m := cmp.Or(stamp, info.Main.Version); strings.HasPrefix(m, "v") {
		v.Version = m[1:]
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show which build this is", Args: args(),
		RunE: func(*cobra.Command, []string) error {
			v := a.Version
			return a.print(v, func(w io.Writer) {
				commit := ""
				if v.Commit != "" {
					commit = ", commit " + v.Commit
				}
				if v.Modified {
					commit += " with changes"
				}
				fmt.Fprintf(w, "leeward %s (%s, %s%s)\n", v.Version, v.Go, v.Platform, commit)
			})
		},
	}
}
