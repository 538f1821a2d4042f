package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/control/target"
)

const (
	probeTime = 5 * time.Minute // for a probe that does not say
	tryAgain  = 200 * time.Millisecond
	tryTime   = 5 * time.Second // for one try; the guest may be slow
	// settleTime is how long a line that matches already may take to be complete.
	settleTime = 200 * time.Millisecond
)

// errOver means that the guest powered off or QEMU ended.
var errOver = errors.New("the machine is no longer running")

// check is one thing to find out about a guest.
type check struct {
	what  string
	wait  func(context.Context) (found string, err error)
	alive bool
	said  string // the evidence, either way
}

// Probe waits for proof of life. A guest that is not alive is no error; the evidence
// then says what was missing.
func (r *Run) Probe(ctx context.Context, p target.Probe) (*target.Result, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if r.cfg.Bridge != "" && p.Port != 0 && r.cfg.Address == "" {
		return nil, fmt.Errorf("port %d of a machine on bridge %s cannot be probed: its address is not known", p.Port, r.cfg.Bridge)
	}
	checks, err := r.checks(&p)
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(p.Timeout, probeTime)
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range checks {
		wg.Go(func() {
			found, err := c.wait(within)
			c.alive, c.said = err == nil, found
			if err != nil {
				c.said = c.what + ": " + missed(err, limit)
			}
			if errors.Is(err, errOver) {
				cancel() // the others need not wait either
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	return r.result(ctx, &p, checks), nil
}

// missed says why a check failed.
func missed(err error, limit time.Duration) string {
	switch {
	case errors.Is(err, context.Canceled):
		return errOver.Error()
	case !errors.Is(err, context.DeadlineExceeded):
		return err.Error()
	}
	var last *lastError
	if errors.As(err, &last) {
		return fmt.Sprintf("not within %v, the last try: %v", limit, last.error)
	}
	return fmt.Sprintf("not within %v", limit)
}

// lastError is what went wrong with the last of many tries.
type lastError struct{ error }

// result puts together what was seen.
func (r *Run) result(ctx context.Context, p *target.Probe, checks []*check) *target.Result {
	res := &target.Result{
		Alive: true, FirstLine: r.serial.firstLine(), SerialLog: filepath.Join(r.dir, serialFile), Fixups: r.fixed.Changes,
	}
	for _, c := range checks {
		res.Alive = res.Alive && c.alive
		res.Evidence = append(res.Evidence, c.said)
	}
	if res.Alive {
		res.Boot = time.Since(r.start)
	} else {
		res.Evidence = append(res.Evidence, r.serial.summary())
	}
	s := r.now()
	if s.off {
		res.Evidence = append(res.Evidence, "the machine powered off: "+s.why)
	}
	if s.resets > 0 {
		res.Evidence = append(res.Evidence, fmt.Sprintf("the machine restarted %d times", s.resets))
	}
	if s.faults > 0 {
		res.Evidence = append(res.Evidence, fmt.Sprintf("%d requests to its disks failed and were tried again", s.faults))
	}
	var err error
	if res.Screen, err = r.picture(ctx); err != nil {
		r.log.Warn("picture of the screen", "err", err)
	}
	res.BytesRead = r.bytesRead(ctx)
	if p.Port != 0 {
		r.hostMu.Lock()
		res.PortOnHost = r.hostPort[p.Port]
		r.hostMu.Unlock()
	}
	return res
}

func (r *Run) checks(p *target.Probe) (all []*check, err error) {
	if p.Serial != "" {
		re, err := regexp.Compile(p.Serial)
		if err != nil {
			return nil, fmt.Errorf("the probe's serial line: %w", err)
		}
		what := fmt.Sprintf("serial line that matches %q", p.Serial)
		all = append(all, &check{what: what, wait: func(ctx context.Context) (string, error) {
			line, err := r.waitLine(ctx, re)
			return "serial line: " + line, err
		}})
	}
	if p.Port != 0 {
		try, what := r.tryConnect, "port "+strconv.Itoa(p.Port)
		if p.HTTP != "" {
			try, what = r.tryHTTP(p.HTTP), fmt.Sprintf("GET %s on port %d", p.HTTP, p.Port)
		}
		all = append(all, &check{what: what, wait: func(ctx context.Context) (string, error) {
			said, err := r.waitPort(ctx, p.Port, try)
			return what + ": " + said, err
		}})
	}
	return all, nil
}

// waitLine waits for a line on the serial line. A guest that powered off may have said
// something that has not been read yet: only the end of the line is the end.
func (r *Run) waitLine(ctx context.Context, re *regexp.Regexp) (string, error) {
	var pos int64
	var settled <-chan time.Time
	for {
		l := r.serial.find(re, pos)
		switch {
		case l.found && (!l.partial || l.ended):
			return l.line, nil
		case l.ended:
			return "", errOver
		case !l.found:
			settled = nil // or no longer: it went on, and became another
		case settled == nil:
			settled = time.After(settleTime)
		}
		pos = l.next
		select {
		case <-l.changed:
		case <-settled:
			return l.line, nil
		case <-ctx.Done():
			if l.found {
				return l.line, nil
			}
			return "", ctx.Err()
		}
	}
}

// waitPort tries until a port of the guest answers.
func (r *Run) waitPort(ctx context.Context, guest int, try func(ctx context.Context, host int) (string, error)) (string, error) {
	host := guest
	if r.cfg.Bridge == "" {
		var err error
		if host, err = r.forward(ctx, guest); err != nil {
			return "", err
		}
	}
	tick := time.NewTicker(tryAgain)
	defer tick.Stop()
	var last error
	for {
		once, cancel := context.WithTimeout(ctx, tryTime)
		said, err := try(once, host)
		cancel()
		if err == nil {
			return said, nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-r.over:
			return "", errOver
		case <-ctx.Done():
			if last != nil && !errors.Is(last, context.DeadlineExceeded) {
				return "", errors.Join(ctx.Err(), &lastError{last})
			}
			return "", ctx.Err()
		case <-tick.C:
		}
	}
}

// forwardTries is how often a port of the host is looked for.
const forwardTries = 10

// forward makes a port of the guest reachable on the loopback interface and returns
// where. The host's port is chosen by asking the kernel for a free one; should
// somebody else get it first, QEMU says so, and another is tried.
func (r *Run) forward(ctx context.Context, guest int) (host int, err error) {
	r.hostMu.Lock()
	defer r.hostMu.Unlock()
	if host, ok := r.hostPort[guest]; ok {
		return host, nil
	}
	for range forwardTries {
		if host, err = freePort(); err != nil {
			return 0, err
		}
		said, err := r.mon.human(ctx, fmt.Sprintf("hostfwd_add %s tcp:127.0.0.1:%d-:%d", netName, host, guest))
		if errors.Is(err, errGone) {
			return 0, errOver
		}
		if err != nil {
			return 0, err
		}
		if said = strings.TrimSpace(said); said == "" {
			r.hostPort[guest] = host
			return host, nil
		}
	}
	return 0, fmt.Errorf("no port of this host could be forwarded to the guest in %d tries", forwardTries)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// at is where a port of the guest can be reached: one of this host that was forwarded, or
// its own.
func (r *Run) at(port int) string {
	host := "127.0.0.1"
	if r.cfg.Bridge != "" {
		host = r.cfg.Address
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// tryConnect finds out whether the guest accepts connections. QEMU accepts them
// before the guest does, so it is asked how far it got.
func (r *Run) tryConnect(ctx context.Context, host int) (string, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", r.at(host))
	if err != nil {
		return "", err
	}
	defer c.Close()
	if r.cfg.Bridge != "" {
		return "accepts connections at " + c.RemoteAddr().String(), nil
	}
	tick := time.NewTicker(tryAgain / 4)
	defer tick.Stop()
	for {
		table, err := r.mon.human(ctx, "info usernet")
		if err != nil {
			return "", err
		}
		switch connection(table, host) {
		case "ESTABLISHED":
			return "accepts connections", nil
		case "":
			return "", errors.New("refused")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// connection finds the state of a forwarded port's connection in what "info usernet"
// says; "" if there is none.
func connection(table string, host int) (state string) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 6 || f[3] != strconv.Itoa(host) {
			continue
		}
		s, ok := strings.CutPrefix(f[0], "TCP[")
		if s = strings.TrimSuffix(s, "]"); !ok || s == "HOST_FORWARD" {
			continue
		}
		if state = s; s == "ESTABLISHED" {
			break
		}
	}
	return state
}

// tryHTTP finds out whether the guest answers a GET with 2xx.
func (r *Run) tryHTTP(path string) func(context.Context, int) (string, error) {
	return func(ctx context.Context, host int) (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.at(host)+path, nil)
		if err != nil {
			return "", err
		}
		client := http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		if _, err := io.CopyN(io.Discard, resp.Body, 64<<10); err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		if resp.StatusCode/100 != 2 {
			return "", fmt.Errorf("answers %s", resp.Status)
		}
		return resp.Status, nil
	}
}
