// Package peers drives the tools that a user would otherwise pick, so that they can
// be timed beside Leeward on the same disk in the same run.
//
// Every tool is used with compression and, where it has it, encryption on; what is
// on and what is not stands in Note and is printed with the figures. A timed step
// ends when what the tool wrote has been written back. Before each step the caller
// drops the page cache.
//
// All are those that the figures are held against, More are plain copies.
//
//	restic    AES-256-CTR + Poly1305, zstd, repository version 2
//	borg      AES-256-CTR + HMAC-SHA256, zstd level 1
//	qemu-img  qcow2 with zstd; no encryption (qcow2 cannot do both)
//	bitmap    a QEMU that runs: a dirty bitmap and blockdev-backup over QMP, qcow2 with
//	          zstd, no encryption. Beside Leeward it is the only one that need not read
//	          everything to find what changed
//
// This package judges nothing and prints nothing.
package peers
