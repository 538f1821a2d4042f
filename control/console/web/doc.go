// Package web is the console: pages for people, rendered here, kept fresh over
// server-sent events.
//
// It asks control through package api and nothing else, over a connection of the bus in
// the role of whoever is signed in: what a role may not do, the bus refuses. A page shows
// only what its reader may press (trust.Permit says what that is), and every action is
// audited under the reader's name. The package keeps no state of its own but open
// connections; who is signed in is asked of control (package session) at every request.
//
//	/login            one-time code or password, sets the cookie
//	/…                pages: html/template, one file each below templates
//	/live/…           the same page's living part, whenever it changes (text/event-stream)
//	/static/…         style, scripts and icon: embedded, compressed, cached for ever by their hash
//
// Each page template defines "still" and may define "live". No page has inline script or
// style: the content security policy allows nothing but 'self'. Everything but charts,
// ticking ages and the theme button works without JavaScript; all of it works with the
// keyboard alone.
package web
