// Package hookstest starts real databases for tests of what is told to applications.
//
// It owns servers of PostgreSQL and MariaDB in directories of the test, reachable
// over a socket there and by nobody else. It never touches a server of the machine.
package hookstest
