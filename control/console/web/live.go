package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	"github.com/leeward-dr/leeward/control/api"
)

const (
	liveQuiet = 15 * time.Second // a sign of life at least so often
	liveWrite = 20 * time.Second // for a reader to take what is sent
	liveLogin = 30 * time.Second // how often it is asked whether the reader is still signed in
)

// live sends the living part of a page whenever it changes.
func (w *Web) live(rw http.ResponseWriter, r *http.Request, b build) {
	a := w.signedIn(rw, r)
	if a == nil {
		return
	}
	select {
	case w.living <- struct{}{}:
		defer func() { <-w.living }()
	default:
		rw.Header().Set("Retry-After", "10")
		w.fail(rw, r, a.who, api.Errorf(api.CodeRefused, "close pages that nobody reads", "more than %d pages are followed at once", maxLive))
		return
	}
	c := http.NewResponseController(rw)
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		w.fail(rw, r, a.who, err)
		return
	}
	rw.Header().Set("Content-Type", "text/event-stream")
	rw.Header().Set("X-Accel-Buffering", "no")
	rw.WriteHeader(http.StatusOK)
	w.follow(rw, c, a, b)
}

func (w *Web) follow(rw http.ResponseWriter, c *http.ResponseController, a *ask, b build) {
	tick := time.NewTicker(w.c.Every)
	defer tick.Stop()
	var seen [sha256.Size]byte
	said, checked := time.Time{}, time.Now()
	base := a.Context
	a.living = true
	for {
		if time.Since(checked) > liveLogin {
			if _, err := w.sessionOf(a.r); err != nil && api.AsError(err).Code == api.CodeNotAuthorised {
				return // the page asks again, and is told so
			}
			checked = time.Now()
		}
		ctx, cancel := context.WithTimeout(base, askTime)
		a.Context = ctx
		html := w.living1(a, b)
		cancel()
		if base.Err() != nil {
			return
		}
		var out []byte
		if sum := sha256.Sum256(html); sum != seen {
			seen, out = sum, event(html)
		} else if time.Since(said) > liveQuiet {
			out = []byte(":\n\n")
		}
		if out != nil {
			said = time.Now()
			if c.SetWriteDeadline(time.Now().Add(liveWrite)) != nil {
				return
			}
			if _, err := rw.Write(out); err != nil || c.Flush() != nil {
				return
			}
		}
		select {
		case <-base.Done():
			return
		case <-w.closing:
			return
		case <-tick.C:
		}
	}
}

// living1 draws the living part once. What goes wrong is shown in its place: a page that
// stands still must not look like one on which nothing happens.
func (w *Web) living1(a *ask, b build) []byte {
	v, err := b(a)
	if err != nil {
		t, _ := troubleOf(a.r, err)
		v = &view{page: "error", title: t.Head, data: t}
	}
	var out bytes.Buffer
	if err := w.draw(&out, "live", w.shellOf(a.r, a.who, v)); err != nil {
		w.c.Log.Error("a page of the console cannot be drawn", "page", v.page, "err", err)
		return fmt.Appendf(nil, `<p class="notice bad">This page cannot be drawn; the server's log says why.</p>`)
	}
	return out.Bytes()
}

// event writes data as one event of text/event-stream.
func event(data []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(data) {
		b.WriteString("data: ")
		b.Write(bytes.TrimRight(line, "\r\n"))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.Bytes()
}
