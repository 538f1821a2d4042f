// Package streamstest runs a real NATS server with JetStream inside a test, with
// every stream of package streams in place.
//
// It asks for no credentials; tests of permissions belong to package embed. Only
// tests import it.
package streamstest
