//go:build !linux

package hooks

import (
	"errors"
	"os/exec"
)

func ownSession(*exec.Cmd) {}

func killGroup(int) {}

// asUser cannot change users here.
func asUser(_ *exec.Cmd, name, _ string) error {
	if name != "" {
		return errors.New("running a hook as another user needs Linux")
	}
	return nil
}
