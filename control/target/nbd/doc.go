// Package nbd serves disks over the Network Block Device protocol: fixed newstyle
// negotiation, structured replies, block status. QEMU, qemu-img, nbdcopy and any other
// client of today read and write a recovery point through it.
//
// It owns the protocol, the limits, and a small read-only client. What a disk is and
// where its bytes are kept is the Export's business. The protocol document is
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; of it there is
//
//	options   EXPORT_NAME GO INFO LIST ABORT STRUCTURED_REPLY LIST_META_CONTEXT SET_META_CONTEXT
//	contexts  base:allocation
//	commands  READ WRITE FLUSH TRIM WRITE_ZEROES CACHE BLOCK_STATUS DISC
//	flags     FUA NO_HOLE DF REQ_ONE FAST_ZERO; several connections to one export
//
// and no TLS: it is made for unix sockets in a directory that is its owner's.
//
// A client is not trusted. Every length is checked before anything is allocated; a
// connection holds at most MaxRequests requests and MaxBytes of data at once, and a
// server MaxConns connections. An export that fails is an error in the reply; the
// connection goes on. Only a client that breaks the protocol loses its connection.
package nbd
