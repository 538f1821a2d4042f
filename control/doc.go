// Package control is the role that decides. It folds markers and receipts into
// recovery points (package points), knows the state of every machine (health),
// brings machines up (failover) and answers operators (api).
//
// It leads the barriers of groups of machines, tells agents the policy of their
// machine, carries out plans, sends notifications, and removes points that no policy
// keeps. What operators decided of all that is kept on the bus (package book).
//
// It owns two cursors on the bus: the durable consumer control-markers, which
// acknowledges a marker only when it is listed or abandoned, and a reader of RECEIPTS
// that starts with the newest receipt of every disk each time. Beside that it hears
// markers and receipts when they are said, and asks the vault about what no receipt
// came for. Everything else it knows is rebuilt at start from the vault and the
// streams; it keeps nothing on disk but its failover jobs.
//
// It writes to the vault only recovery points, pins, and records of the book and of jobs
// (for the day when only the vault is left), and segments only by folding what no point
// shows any more (vault.Maintain). RPO is computed
// only from points that the vault lists.
package control
