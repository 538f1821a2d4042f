package control

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/control/plan"
)

// maxOutput is how much of what a step says is kept: the end of it.
const maxOutput = 4 << 10

// perform does an action of a plan: a script or a request.
func perform(ctx context.Context, run *plan.Run, t *plan.Task) (string, error) {
	switch a := t.Action; {
	case a.Script != nil:
		return script(ctx, run, t, a.Script)
	case a.HTTP != nil:
		return request(ctx, a.HTTP)
	}
	return "", errors.New("a step that a person does was given to the server")
}

// script runs a script here, or on another host through the system's ssh client with
// its own keys and known hosts. What it started here is ended with it. On another host
// the connection's end ends nothing that is silent, so the host itself ends the script
// when its time is over (timeout of coreutils or busybox).
func script(ctx context.Context, run *plan.Run, t *plan.Task, s *plan.Script) (string, error) {
	env := map[string]string{"LEEWARD_PLAN": run.Plan, "LEEWARD_RUN": run.ID, "LEEWARD_MODE": run.Mode, "LEEWARD_STAGE": t.Stage}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", s.Run)
	if s.SSH != "" {
		host, port := s.SSH, "22"
		if h, p, err := net.SplitHostPort(s.SSH); err == nil {
			host, port = h, p
		}
		cmd = exec.CommandContext(ctx, "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3", "-p", port, host)
		if end, ok := ctx.Deadline(); ok {
			cmd.Args = append(cmd.Args, "timeout", strconv.Itoa(max(1, int(math.Ceil(time.Until(end).Seconds())))))
		}
		cmd.Args = append(cmd.Args, "/bin/sh", "-s")
		var in strings.Builder
		for _, k := range []string{"LEEWARD_PLAN", "LEEWARD_RUN", "LEEWARD_MODE", "LEEWARD_STAGE"} {
			fmt.Fprintf(&in, "export %s='%s'\n", k, env[k]) // valid names hold no quotes
		}
		cmd.Stdin = strings.NewReader(in.String() + s.Run + "\n")
	}
	cmd.Env = os.Environ()
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	said := strings.TrimSpace(strings.ToValidUTF8(string(out.b), "?"))
	if err != nil && said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return said, err
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*maxOutput {
		t.b = append(t.b[:0], t.b[len(t.b)-maxOutput:]...)
	}
	return len(p), nil
}

func request(ctx context.Context, h *plan.HTTP) (string, error) {
	req, err := http.NewRequestWithContext(ctx, cmp.Or(h.Method, http.MethodPost), h.URL, bytes.NewReader([]byte(h.Body)))
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(strings.TrimSpace(h.Body), "{") {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	said := strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
	switch {
	case err != nil:
		return "", err
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return "", fmt.Errorf("it answers %s: %s", resp.Status, said)
	}
	return resp.Status + " " + said, nil
}
