package azuritetest

import (
	"os/exec"
	"syscall"
)

// dieWithUs ends the process when the test binary is killed.
func dieWithUs(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
