package azure

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/leeward-dr/leeward/control/target"
)

const (
	defaultProbe = 5 * time.Minute
	dialTime     = 10 * time.Second
	serialFile   = "serial.log"
)

// Probe waits until the machine is up, then for proof of life. Its time begins when the
// machine is up: how long disks take to be sent is no sign of life.
func (r *Run) Probe(ctx context.Context, p target.Probe) (*target.Result, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	re, err := regexp.Compile(p.Serial)
	if err != nil {
		return nil, fmt.Errorf("serial expression %q: %w", p.Serial, err)
	}
	select {
	case <-r.worked:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.err != nil {
		return nil, r.err
	}
	if p.Port != 0 && r.b.Isolated {
		return nil, fmt.Errorf("nothing reaches port %d of a machine that is tested in isolation in Azure: prove its life by a serial line", p.Port)
	}
	limit := p.Timeout
	if limit == 0 {
		limit = defaultProbe
	}
	end, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	w := &watching{Run: r, serial: p.Serial != "", re: re, p: p}
	for !w.look(end) && pause(end, max(r.cfg.poll, retryLook(r.cfg.poll))) {
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return w.result(ctx)
}

// retryLook is how long boot diagnostics need to change: about as long as Azure takes to
// write them down.
func retryLook(poll time.Duration) time.Duration {
	if poll < time.Second {
		return 0
	}
	return 10 * time.Second
}

// watching is one probe.
type watching struct {
	*Run
	p      target.Probe
	re     *regexp.Regexp
	serial bool // is asked for

	alive     bool
	state     power
	line      string        // that matched
	answered  string        // what a port said
	firstLine time.Duration // from start
	boot      time.Duration
	log       []byte
	screen    []byte
	where     string
	last      error
}

// look looks once, and reports whether there is nothing more to wait for.
func (w *watching) look(ctx context.Context) bool {
	since := func() time.Duration { return max(time.Since(w.b.now().Up), time.Millisecond) }
	w.last = nil
	state, err := w.power(ctx)
	if err != nil {
		w.last = err
		return false
	}
	w.state = state
	if log, screen, where, err := w.diagnostics(ctx); err != nil {
		w.last = err
	} else {
		w.log, w.screen, w.where = log, screen, where
	}
	if w.firstLine == 0 && len(bytes.TrimSpace(w.log)) > 0 {
		w.firstLine = since()
	}
	if w.serial && w.line == "" {
		for line := range bytes.Lines(w.log) {
			if line = bytes.TrimRight(line, "\r\n"); w.re.Match(line) {
				w.line = string(line[:min(len(line), 200)])
				break
			}
		}
	}
	if w.p.Port != 0 && w.answered == "" {
		if w.answered, err = w.ask(ctx); err != nil {
			w.last = err
		}
	}
	if state == "running" && (!w.serial || w.line != "") && (w.p.Port == 0 || w.answered != "") {
		w.alive, w.boot = true, since()
		return true
	}
	return state.off()
}

// ask asks the port of the machine, at its private address: control must have a way there.
func (w *watching) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	ip, err := w.address(ctx)
	if err != nil {
		return "", err
	}
	at := net.JoinHostPort(ip, strconv.Itoa(w.p.Port))
	if w.p.HTTP == "" {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", at)
		if err != nil {
			return "", err
		}
		c.Close()
		return "port " + at + " accepts", nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+w.p.HTTP, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return "", fmt.Errorf("%s answers %s", at, resp.Status)
	}
	return fmt.Sprintf("http://%s%s answers %s", at, w.p.HTTP, resp.Status), nil
}

// result keeps what was seen.
func (w *watching) result(ctx context.Context) (*target.Result, error) {
	res := &target.Result{Alive: w.alive, FirstLine: w.firstLine, Boot: w.boot, Fixups: w.b.now().Fixups}
	w.noteMu.Lock()
	res.Evidence = append(res.Evidence, w.notes...)
	w.noteMu.Unlock()
	say := func(format string, args ...any) { res.Evidence = append(res.Evidence, fmt.Sprintf(format, args...)) }
	say("virtual machine %s is %s", w.b.base(), or(string(w.state), "not seen"))
	switch {
	case w.line != "":
		say("serial line %q", w.line)
	case w.serial:
		say("no serial line matches %q among %d bytes: does its kernel write to ttyS0?", w.p.Serial, len(w.log))
	}
	switch {
	case w.answered != "":
		say("%s", w.answered)
	case w.p.Port != 0:
		say("port %d has not answered", w.p.Port)
	}
	if w.last != nil && ctx.Err() == nil {
		say("at last: %v", unsigned(w.last))
	}
	if w.where != "" {
		say("boot diagnostics %s", w.where)
	}
	var err error
	if len(w.log) > 0 {
		res.SerialLog = filepath.Join(w.b.dir, serialFile)
		err = os.WriteFile(res.SerialLog, w.log, 0o600)
	}
	if len(w.screen) > 0 && err == nil {
		res.Screen = filepath.Join(w.b.dir, "screen.png")
		if bytes.HasPrefix(w.screen, []byte("BM")) {
			res.Screen = filepath.Join(w.b.dir, "screen.bmp")
		}
		err = os.WriteFile(res.Screen, w.screen, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("keep what the machine said: %w", err)
	}
	return res, nil
}
