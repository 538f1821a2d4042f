package webtest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Page is a tab with cookies of its own.
type Page struct {
	b       *Browser
	session string

	mu         sync.Mutex // guards what follows
	complaints []string
	weight     int64
	policy     string // content security policy of the newest document
}

// Page opens a tab of that size.
func (b *Browser) Page(width, height int) *Page {
	b.t.Helper()
	ctx := b.t.Context()
	var made struct{ BrowserContextID, TargetID, SessionID string }
	b.must(b.call(ctx, "", "Target.createBrowserContext", map[string]any{}, &made))
	b.must(b.call(ctx, "", "Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": made.BrowserContextID}, &made))
	b.must(b.call(ctx, "", "Target.attachToTarget", map[string]any{"targetId": made.TargetID, "flatten": true}, &made))
	p := &Page{b: b, session: made.SessionID}
	b.mu.Lock()
	b.pages[p.session] = p
	b.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		p.call(domain+".enable", nil, nil)
	}
	p.call("Network.setCacheDisabled", map[string]any{"cacheDisabled": true}, nil)     // a page weighs what a first visit costs
	p.call("Emulation.setFocusEmulationEnabled", map[string]any{"enabled": true}, nil) // else it takes itself for hidden
	p.Size(width, height)
	return p
}

func (b *Browser) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (p *Page) call(method string, params, out any) {
	p.b.t.Helper()
	p.b.must(p.b.call(p.b.t.Context(), p.session, method, params, out))
}

// event is called by the goroutine that reads.
func (p *Page) event(method string, params json.RawMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var e struct {
		Type, URL         string
		EncodedDataLength int64
		Args              []struct{ Value, Description any }
		Entry             struct{ Level, Text, URL string }
		ExceptionDetails  struct {
			Text      string
			Exception struct{ Description string }
		}
		Response struct{ Headers map[string]string }
	}
	if json.Unmarshal(params, &e) != nil && method != "Network.responseReceived" {
		return
	}
	switch method {
	case "Network.loadingFinished":
		p.weight += e.EncodedDataLength
	case "Network.responseReceived":
		if e.Type == "Document" {
			for k, v := range e.Response.Headers {
				if strings.EqualFold(k, "content-security-policy") {
					p.policy = v
				}
			}
		}
	case "Runtime.exceptionThrown":
		p.complaints = append(p.complaints, "exception: "+e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
	case "Runtime.consoleAPICalled":
		if e.Type == "error" || e.Type == "warning" || e.Type == "assert" {
			p.complaints = append(p.complaints, fmt.Sprint("console.", e.Type, ": ", e.Args))
		}
	case "Log.entryAdded":
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			p.complaints = append(p.complaints, e.Entry.Level+": "+e.Entry.Text+" "+e.Entry.URL)
		}
	}
}

// Size makes the tab so large.
func (p *Page) Size(width, height int) {
	p.b.t.Helper()
	p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// Dark makes the system prefer dark colours, or light ones.
func (p *Page) Dark(on bool) {
	p.b.t.Helper()
	v := "light"
	if on {
		v = "dark"
	}
	p.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": v}}}, nil)
}

// Open goes to an address and waits until it is loaded.
func (p *Page) Open(url string) {
	p.b.t.Helper()
	p.mu.Lock()
	p.weight, p.policy = 0, ""
	p.mu.Unlock()
	Eval[bool](p, "window.before = true") // the next document has no such thing
	var went struct{ ErrorText string }
	p.call("Page.navigate", map[string]any{"url": url}, &went)
	if went.ErrorText != "" {
		p.b.t.Fatalf("open %s: %s", url, went.ErrorText)
	}
	p.Wait("load "+url, `!window.before && document.readyState === "complete"`)
}

// Weight is how many bytes came over the wire since Open, and the document's content
// security policy.
func (p *Page) Weight() (bytes int64, policy string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.weight, p.policy
}

// Complaints returns what the browser complained of, and forgets it.
func (p *Page) Complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.complaints
	p.complaints = nil
	return c
}

// waitTime is many times what anything takes here when nothing else runs.
const waitTime = 3 * time.Minute

func (p *Page) wait(what string, cond func() bool) {
	p.b.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitTime); !cond(); <-tick.C {
		if time.Now().After(end) {
			p.b.t.Fatalf("not in time: %s; the browser complains %q; the page says:\n%s", what, p.Complaints(), p.text())
		}
	}
}

// text is what the page says now, for people who read why a test failed.
func (p *Page) text() string {
	var s string
	_ = p.eval("document.title + ' hidden:' + document.hidden + '\\n' + location.href + '\\n' + document.body.innerText", &s) // best effort
	return s
}

func (p *Page) eval(script string, out any) error {
	ctx, cancel := context.WithTimeout(p.b.t.Context(), callTime)
	defer cancel()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := p.b.call(ctx, p.session, "Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true, "awaitPromise": true}, &r)
	if err == nil && r.ExceptionDetails != nil {
		err = fmt.Errorf("%s: %s %s", script, r.ExceptionDetails.Text, r.ExceptionDetails.Exception.Description)
	}
	if err != nil || out == nil || len(r.Result.Value) == 0 {
		return err
	}
	return json.Unmarshal(r.Result.Value, out)
}

// Eval evaluates a script and returns its value. While the page is on its way to another it
// is asked of that one.
func Eval[T any](p *Page, script string) (v T) {
	p.b.t.Helper()
	var err error
	p.wait("evaluate "+script, func() bool {
		err = p.eval(script, &v)
		return err == nil || !onItsWay(err)
	})
	p.b.must(err)
	return v
}

// onItsWay is what the browser says of a document that has just been left.
func onItsWay(err error) bool {
	for _, s := range []string{"context was destroyed", "Cannot find context", "navigated or closed"} {
		if strings.Contains(err.Error(), s) {
			return true
		}
	}
	return false
}

// Wait waits until a script is true. One that fails is not: the page may be on its way to
// another.
func (p *Page) Wait(what, script string) {
	p.b.t.Helper()
	p.wait(what, func() bool {
		ok := false
		return p.eval("Boolean("+script+")", &ok) == nil && ok
	})
}

// See waits until the page says a text.
func (p *Page) See(text string) {
	p.b.t.Helper()
	p.Wait("see "+text, fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// find is a script for the element that is meant: a selector, or after "=" the text of a
// link, button or label.
func find(what string) string {
	if text, ok := strings.CutPrefix(what, "="); ok {
		return fmt.Sprintf(`[...document.querySelectorAll('a, button, label')].find(e => e.innerText.trim().startsWith(%q) && e.offsetParent)`, text)
	}
	return fmt.Sprintf("document.querySelector(%q)", what)
}

// Click presses an element with the mouse: a selector, or "=" and the beginning of its
// text.
func (p *Page) Click(what string) {
	p.b.t.Helper()
	// A page that is still coming moves under the mouse.
	p.Wait("find "+what, find(what)+` && document.readyState === "complete"`)
	at := Eval[struct{ X, Y float64 }](p, fmt.Sprintf(`(() => { const e = %s; e.scrollIntoView({block: "center", behavior: "instant"}); const r = e.getBoundingClientRect(); return {X: r.x + r.width / 2, Y: r.y + r.height / 2}; })()`, find(what)))
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		p.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}, nil)
	}
}

// Type writes into what has the focus.
func (p *Page) Type(text string) {
	p.b.t.Helper()
	p.call("Input.insertText", map[string]any{"text": text}, nil)
}

// Fill clicks a field and writes into it.
func (p *Page) Fill(selector, text string) {
	p.b.t.Helper()
	p.Click(selector)
	p.Type(text)
}

// keys are those that people need who have no mouse.
var keys = map[string]struct {
	code int
	text string
}{"Tab": {9, ""}, "Enter": {13, "\r"}, " ": {32, " "}, "ArrowDown": {40, ""}, "ArrowUp": {38, ""}, "Escape": {27, ""}}

// Press presses keys, one after the other.
func (p *Page) Press(names ...string) {
	p.b.t.Helper()
	for _, n := range names {
		k, ok := keys[n]
		if !ok {
			p.b.t.Fatalf("no key %q", n)
		}
		code := n
		if n == " " {
			code = "Space"
		}
		down := map[string]any{"type": "keyDown", "key": n, "code": code, "windowsVirtualKeyCode": k.code}
		if k.text != "" {
			down["text"] = k.text
		}
		p.call("Input.dispatchKeyEvent", down, nil)
		p.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": n, "code": code, "windowsVirtualKeyCode": k.code}, nil)
	}
}

// maxTabs is more than any page has stops.
const maxTabs = 200

// TabTo presses Tab until an element has the focus, and checks that the focus can be seen.
func (p *Page) TabTo(what string) {
	p.b.t.Helper()
	p.Wait("find "+what, find(what))
	for range maxTabs {
		if Eval[bool](p, find(what)+" === document.activeElement") {
			if !Eval[bool](p, `(() => { const e = document.activeElement; return [e, e.closest("label")].some(x => x && getComputedStyle(x).outlineStyle !== "none"); })()`) {
				p.b.t.Errorf("%s has the focus and does not show it", what)
			}
			return
		}
		p.Press("Tab")
	}
	p.b.t.Fatalf("the keyboard does not reach %s", what)
}

// Picture writes what the page looks like, all of it, to a PNG.
func (p *Page) Picture(file string) {
	p.b.t.Helper()
	var size struct {
		CSSContentSize struct{ Width, Height float64 }
	}
	p.call("Page.getLayoutMetrics", nil, &size)
	var shot struct{ Data string }
	p.call("Page.captureScreenshot", map[string]any{
		"format": "png", "captureBeyondViewport": true,
		"clip": map[string]any{"x": 0, "y": 0, "width": size.CSSContentSize.Width, "height": min(size.CSSContentSize.Height, 6000), "scale": 1},
	}, &shot)
	b, err := base64.StdEncoding.DecodeString(shot.Data)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, b, 0o644)
	}
	p.b.must(err)
}
