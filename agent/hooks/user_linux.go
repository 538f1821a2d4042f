package hooks

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// ownSession takes a command out of the agent's session, so that what ends the
// agent does not end it.
func ownSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

// killGroup kills what a hook that had its time has left behind.
func killGroup(leader int) { _ = syscall.Kill(-leader, syscall.SIGKILL) }

// asUser prepares a command to run in a process group of its own, as a user to whom
// the session's directory then belongs. When its context ends the group is asked to
// end; WaitDelay and killGroup see to the rest.
func asUser(cmd *exec.Cmd, name, dir string) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("%w: name another user with USER@HOOK", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	ids, err3 := u.GroupIds()
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("user %s: %w", name, err)
	}
	if int(uid) == os.Geteuid() {
		return nil
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			c.Groups = append(c.Groups, uint32(n))
		}
	}
	cmd.SysProcAttr.Credential = c
	cmd.Env = append(cmd.Env, "HOME="+u.HomeDir, "USER="+u.Username, "LOGNAME="+u.Username)
	if dir == "" {
		return nil
	}
	return os.Chown(dir, int(uid), int(gid))
}
