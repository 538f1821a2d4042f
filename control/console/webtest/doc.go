// Package webtest drives a real browser for tests: headless Chromium over the DevTools
// protocol, on a pipe, so that no port is open and nothing of it is linked into the
// product. It clicks and types as a person does, by events of mouse and keyboard, and
// keeps what the browser complains of and how much each page weighs.
//
// It never decides what a page should look like.
package webtest
