// Package console is the management port: an HTTP listener for those who have no
// key of the bus (yet), and for people with a browser.
//
//	POST /v1/enrol   {"token", "public_key"}   lets an agent in (package enrol): enrol.Grant
//	GET  /healthz                              200 while the process lives
//	GET  /readyz                               200 when it can do its work, else 503 with the reasons
//	GET  /metrics                              Prometheus text format
//	     /…                                    the console (package web), where control runs
//
// Other machines reach it by TLS only. Metrics name the protected machines, so they
// are for this machine, or for who brings the token of DIR/keys/metrics.token.
//
// It decides nothing and keeps nothing.
package console
