package web

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/session"
)

// cookie is the name of the cookie that holds a session. The prefix makes browsers hold
// it to this host and to TLS.
func cookie(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-leeward"
	}
	return "leeward"
}

func setCookie(rw http.ResponseWriter, r *http.Request, secret string, age int) {
	http.SetCookie(rw, &http.Cookie{
		Name: cookie(r), Value: secret, Path: "/", MaxAge: age, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode,
	})
}

// sessionOf says who asks.
func (w *Web) sessionOf(r *http.Request) (*session.Session, error) {
	k, err := r.Cookie(cookie(r))
	if err != nil || k.Value == "" {
		return nil, api.Errorf(api.CodeNotAuthorised, "", "nobody is signed in")
	}
	c, err := w.door(r.Context(), "console")
	if err != nil {
		return nil, err
	}
	return c.CheckSession(r.Context(), k.Value)
}

// pathOf is the path and query of an address, for going somewhere on this host: never
// to another.
func pathOf(address string) string {
	u, err := url.Parse(address)
	if err != nil || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, "\\") {
		return "/"
	}
	return (&url.URL{Path: u.Path, RawQuery: u.RawQuery}).String()
}

func loginURL(r *http.Request) string {
	if r.URL.Path == "/" {
		return "/login"
	}
	return "/login?" + url.Values{"next": {r.URL.RequestURI()}}.Encode()
}

// loginForm is what the page shows.
type loginForm struct {
	Code, Name, Next, Error, Try string
}

// loginPage shows the form. A code in the address is only filled in: who or whatever
// looks at a link does not use it up.
func (w *Web) loginPage(rw http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	w.render(rw, r, nil, &view{page: "login", title: "Sign in", still: true, data: loginForm{Code: q.Get("code"), Next: pathOf(q.Get("next"))}}, http.StatusOK)
}

func (w *Web) login(rw http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		w.fail(rw, r, nil, api.Errorf(api.CodeUsage, "", "the form is unreadable: %w", err))
		return
	}
	f := loginForm{Code: strings.TrimSpace(r.PostForm.Get("code")), Name: r.PostForm.Get("name"), Next: pathOf(r.PostForm.Get("next"))}
	actor := f.Name
	if f.Code != "" {
		actor = "somebody with a code"
	}
	c, err := w.door(r.Context(), actor+" (console)")
	if err != nil {
		w.fail(rw, r, nil, err)
		return
	}
	var s *session.Session
	if f.Code != "" {
		s, err = c.Redeem(r.Context(), f.Code)
	} else {
		s, err = c.Password(r.Context(), f.Name, r.PostForm.Get("password"))
	}
	if err != nil {
		e := api.AsError(err)
		if e.Code != api.CodeNotAuthorised {
			w.fail(rw, r, nil, err)
			return
		}
		f.Code, f.Error, f.Try = "", e.Message, e.Try
		w.render(rw, r, nil, &view{page: "login", title: "Sign in", still: true, data: f}, http.StatusForbidden)
		return
	}
	setCookie(rw, r, s.Secret, int(session.Life.Seconds()))
	http.Redirect(rw, r, f.Next, http.StatusSeeOther)
}

func (w *Web) logout(rw http.ResponseWriter, r *http.Request) {
	if k, err := r.Cookie(cookie(r)); err == nil {
		c, err := w.door(r.Context(), "console")
		if err == nil {
			err = c.EndSession(r.Context(), k.Value)
		}
		if err != nil {
			w.fail(rw, r, nil, err) // the session goes on: say so
			return
		}
	}
	setCookie(rw, r, "", -1)
	http.Redirect(rw, r, "/login", http.StatusSeeOther)
}
