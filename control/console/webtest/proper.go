package webtest

import (
	"fmt"
	"path/filepath"
	"strings"
)

// heaviest is what a first visit to a page may cost, in bytes over the wire.
const heaviest = 300 << 10

// Proper holds the page that was opened to what every page of the console must keep: its
// weight, its content security policy, and that the browser complains of nothing. where
// names it for people.
func (p *Page) Proper(where string) {
	p.b.t.Helper()
	bytes, policy := p.Weight()
	if bytes > heaviest || bytes == 0 {
		p.b.t.Errorf("%s weighs %d bytes, at most %d", where, bytes, heaviest)
	}
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) || strings.Contains(policy, "unsafe") {
			p.b.t.Errorf("%s: the content security policy is %q", where, policy)
		}
	}
	for _, c := range p.Complaints() {
		p.b.t.Errorf("%s: the browser complains: %s", where, c)
	}
}

// Pictures keeps what the page looks like below dir, at both widths, and at the wide one in
// the dark too. No page may be wider than its window.
func (p *Page) Pictures(dir, name string) {
	p.b.t.Helper()
	for _, k := range []struct {
		name          string
		width, height int
		dark          bool
	}{{"1280-light", 1280, 860, false}, {"1280-dark", 1280, 860, true}, {"400", 400, 860, false}} {
		p.Size(k.width, k.height)
		p.Dark(k.dark)
		if wide := Eval[int](p, "document.documentElement.scrollWidth"); wide > k.width {
			p.b.t.Errorf("%s is %d pixels wide in a window of %d", name, wide, k.width)
		}
		p.Picture(filepath.Join(dir, name+"-"+k.name+".png"))
	}
	p.Size(1280, 860)
	p.Dark(false)
}

// Refill empties a field and writes into it.
func (p *Page) Refill(selector, text string) {
	p.b.t.Helper()
	p.Wait("find "+selector, find(selector))
	Eval[bool](p, fmt.Sprintf("(%s.value = '', true)", find(selector)))
	p.Fill(selector, text)
}
