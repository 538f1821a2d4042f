// Package book keeps what operators decide: groups, policies, plans, where to send
// notifications, and the runs of plans.
//
// It is a key-value bucket of JetStream (streams.Book) with one JSON document a key,
// <kind>.<name>; the bucket keeps the last 64 versions of each. Writers say which
// version they have seen, so that of two who change a document at the same time one is
// told. `nats kv get LEEWARD_BOOK policy.default` shows a document to anybody.
//
// It knows nothing of what the documents say.
package book
