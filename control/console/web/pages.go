package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/session"
)

//go:embed static templates
var files embed.FS

// pages are the templates and static files, read once.
type pages struct {
	all    map[string]*template.Template
	assets map[string]asset
}

type asset struct {
	kind, hash  string
	plain, gzip []byte
}

func loadPages() (*pages, error) {
	p := &pages{all: map[string]*template.Template{}, assets: map[string]asset{}}
	names, err := fs.Glob(files, "static/*")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		b, err := files.ReadFile(n)
		if err == nil {
			err = p.asset(path.Base(n), b)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", n, err)
		}
	}
	if err := p.together(scripts, "htmx.min.js", "hx-sse.min.js"); err != nil {
		return nil, err
	}
	funcs := template.FuncMap{"asset": p.address}
	for name, fn := range words {
		funcs[name] = fn
	}
	base, err := template.New("layout.html").Funcs(funcs).ParseFS(files, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, fmt.Errorf("read the layout: %w", err)
	}
	if names, err = fs.Glob(files, "templates/*.html"); err != nil {
		return nil, err
	}
	for _, n := range names {
		name := strings.TrimSuffix(path.Base(n), ".html")
		if name == "layout" || name == "parts" {
			continue
		}
		t, err := base.Clone()
		if err == nil {
			t, err = t.ParseFS(files, n)
		}
		if err != nil {
			return nil, fmt.Errorf("read page %s: %w", name, err)
		}
		p.all[name] = t
	}
	return p, nil
}

// scripts is one file of htmx and its extension. As two files they would race: htmx looks
// at the page as soon as it has run, and an extension that comes later is not asked.
const scripts = "live.js"

// together makes one file of several.
func (p *pages) together(name string, parts ...string) error {
	var all []byte
	for _, n := range parts {
		all = append(append(all, p.assets[n].plain...), '\n')
	}
	return p.asset(name, all)
}

func (p *pages) asset(name string, b []byte) error {
	sum := sha256.Sum256(b)
	a := asset{kind: mime.TypeByExtension(path.Ext(name)), hash: hex.EncodeToString(sum[:6]), plain: b}
	switch path.Ext(name) { // not what this machine's tables say
	case ".js":
		a.kind = "text/javascript; charset=utf-8"
	case ".css":
		a.kind = "text/css; charset=utf-8"
	case ".svg":
		a.kind = "image/svg+xml"
	case ".LICENSE":
		a.kind = "text/plain; charset=utf-8"
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	a.gzip = z.Bytes()
	p.assets[name] = a
	return nil
}

// address is where a browser finds a file; it changes with the file.
func (p *pages) address(name string) (string, error) {
	a, ok := p.assets[name]
	if !ok {
		return "", fmt.Errorf("there is no file %s", name)
	}
	return "/static/" + name + "?v=" + a.hash, nil
}

func (p *pages) static(rw http.ResponseWriter, r *http.Request) {
	a, ok := p.assets[r.PathValue("file")]
	if !ok {
		http.NotFound(rw, r)
		return
	}
	h := rw.Header()
	h.Set("Content-Type", a.kind)
	h.Set("Vary", "Accept-Encoding")
	if r.URL.Query().Get("v") == a.hash {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	body := a.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = a.gzip
	}
	_, _ = rw.Write(body) // who went away needs no answer
}

// shell is what the layout shows around a page.
type shell struct {
	Page, Section, Title, Path, Theme, Version string
	Query                                      string
	Live                                       bool
	Script                                     string
	Who                                        *session.Session // nil: nobody is signed in
	Now                                        time.Time
	Crew                                       bool // agents can be pushed from here
	Data                                       any
}

// May reports whether the reader may ask control for a verb.
func (s shell) May(verb string) bool { return s.Who != nil && may(s.Who.Role, verb) }

// Item is an entry of the navigation.
type item struct{ Section, Path, Name string }

// Nav are the entries of the navigation that the reader may open.
func (s shell) Nav() []item {
	all := []item{
		{"overview", "/", "Overview"}, {"machines", "/machines", "Machines"}, {"plans", "/plans", "Plans and drills"}, {"jobs", "/jobs", "Jobs"},
		{"rules", "/policies", "Groups and policies"}, {"events", "/events", "Events"}, {"site", "/site", "Process servers"}, {"vault", "/vault", "Vault"},
		{"people", "/people", "People"},
	}
	return all
}

func (w *Web) shellOf(r *http.Request, who *session.Session, v *view) shell {
	s := shell{
		Page: v.page, Section: v.section, Title: v.title, Path: strings.TrimPrefix(r.URL.Path, "/live"), Theme: "auto", Version: w.c.Version,
		Live: !v.still, Script: v.script, Who: who, Now: time.Now().UTC(), Data: v.data, Crew: w.c.Crew != nil && who != nil && may(who.Role, verbPush),
	}
	if r.URL.RawQuery != "" {
		s.Query = "?" + r.URL.RawQuery
	}
	if k, err := r.Cookie("leeward-theme"); err == nil && (k.Value == "dark" || k.Value == "light") {
		s.Theme = k.Value
	}
	return s
}

// draw writes a template of a page.
func (w *Web) draw(to io.Writer, template string, s shell) error {
	t := w.pages.all[s.Page]
	if t == nil {
		return fmt.Errorf("there is no page %s", s.Page)
	}
	return t.ExecuteTemplate(to, template, s)
}

func (w *Web) render(rw http.ResponseWriter, r *http.Request, who *session.Session, v *view, status int) {
	var b bytes.Buffer
	if err := w.draw(&b, "layout.html", w.shellOf(r, who, v)); err != nil {
		w.c.Log.Error("a page of the console cannot be drawn", "page", v.page, "err", err)
		http.Error(rw, "this page cannot be drawn; the server's log says why", http.StatusInternalServerError)
		return
	}
	h := rw.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Vary", "Accept-Encoding")
	body := b.Bytes()
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		var z bytes.Buffer
		g := gzip.NewWriter(&z)
		_, _ = g.Write(body) // into memory
		if g.Close() == nil {
			h.Set("Content-Encoding", "gzip")
			body = z.Bytes()
		}
	}
	rw.WriteHeader(status)
	_, _ = rw.Write(body) // who went away needs no answer
}
