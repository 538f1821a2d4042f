package webtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// callTime bounds one answer of the browser, at any load.
const callTime = 2 * time.Minute

// commands are what Chromium is called, the lighter first.
var commands = []string{"chromium-headless-shell", "chromium", "chromium-browser"}

// Find returns the browser's path. Without one the test is skipped; as root and where CI
// is true it fails: there Debian's chromium-headless-shell can be installed.
func Find(t testing.TB) string {
	t.Helper()
	for _, c := range commands {
		if p, err := exec.LookPath(c); err == nil {
			return p
		}
	}
	if os.Geteuid() == 0 || os.Getenv("CI") == "true" {
		t.Fatal("chromium-headless-shell is not installed, and the tests need it here")
	}
	t.Skip("skipped: chromium-headless-shell is not installed")
	return ""
}

// Browser is a running Chromium.
type Browser struct {
	t   testing.TB
	out io.WriteCloser

	mu      sync.Mutex // guards what follows
	next    int
	waiting map[int]chan answer
	pages   map[string]*Page // by session
	gone    error            // why nothing is heard any more
}

type answer struct {
	result json.RawMessage
	err    error
}

type message struct {
	ID        int             `json:"id"`
	Method    string          `json:"method"`
	SessionID string          `json:"sessionId"`
	Params    json.RawMessage `json:"params"`
	Result    json.RawMessage `json:"result"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// Start starts a browser that ends with the test.
func Start(t testing.TB) *Browser {
	t.Helper()
	path := Find(t)
	// Descriptors 3 and 4 of the browser: what it reads, and what it writes.
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	heard, says, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"--headless", "--remote-debugging-pipe", "--user-data-dir=" + t.TempDir(), "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--metrics-recording-only", "--mute-audio",
		"--hide-scrollbars", "--force-color-profile=srgb", "--ignore-certificate-errors", "--disable-features=Translate,OptimizationHints,MediaRouter",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium refuses to run as root with it
	}
	cmd := exec.Command(path, append(args, "about:blank")...)
	cmd.ExtraFiles = []*os.File{in, says}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	says.Close()
	b := &Browser{t: t, out: out, waiting: map[int]chan answer{}, pages: map[string]*Page{}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.read(heard)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its own group: the browser and its children
		_ = cmd.Wait()
		out.Close()
		heard.SetReadDeadline(time.Now().Add(5 * time.Second)) //nolint:errcheck // a pipe takes it
		<-read
		heard.Close()
	})
	return b
}

func (b *Browser) read(r io.Reader) {
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		raw, err := in.ReadBytes(0)
		if err != nil {
			b.end(fmt.Errorf("the browser ended: %w", err))
			return
		}
		var m message
		if err := json.Unmarshal(raw[:len(raw)-1], &m); err != nil {
			b.end(fmt.Errorf("the browser says something unreadable: %w", err))
			return
		}
		b.mu.Lock()
		if m.ID != 0 {
			c := b.waiting[m.ID]
			delete(b.waiting, m.ID)
			b.mu.Unlock()
			if c != nil {
				a := answer{result: m.Result}
				if m.Error != nil {
					a.err = errors.New(m.Error.Message)
				}
				c <- a
			}
			continue
		}
		p := b.pages[m.SessionID]
		b.mu.Unlock()
		if p != nil {
			p.event(m.Method, m.Params)
		}
	}
}

func (b *Browser) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone = err
	for id, c := range b.waiting {
		delete(b.waiting, id)
		c <- answer{err: err}
	}
}

// call asks the browser, or a page of it, for something.
func (b *Browser) call(ctx context.Context, session, method string, params any, out any) error {
	c := make(chan answer, 1)
	b.mu.Lock()
	if b.gone != nil {
		defer b.mu.Unlock()
		return b.gone
	}
	b.next++
	id := b.next
	b.waiting[id] = c
	m := map[string]any{"id": id, "method": method, "params": params}
	if params == nil {
		delete(m, "params")
	}
	if session != "" {
		m["sessionId"] = session
	}
	raw, err := json.Marshal(m)
	if err == nil {
		_, err = b.out.Write(append(raw, 0))
	}
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("tell the browser %s: %w", method, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	select {
	case a := <-c:
		if a.err != nil {
			return fmt.Errorf("%s: %w", method, a.err)
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(a.result, out)
	case <-ctx.Done():
		return fmt.Errorf("%s: the browser does not answer: %w", method, ctx.Err())
	}
}
