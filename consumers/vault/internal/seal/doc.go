// Package seal turns keys into seals: it derives, wraps, encrypts and binds.
//
//	passphrase --Argon2id(slot's salt)--> wraps the vault key
//	key file   --HKDF(slot's salt, place)--> wraps the vault key
//	service    --unwraps slot's blob--> wraps the vault key
//	vault key  --HKDF("leeward wrap disk keys")--> wraps each disk key
//	vault key  --HKDF(point's salt, place)--> seals a point
//	disk key   --HKDF(segment's salt, place)--> seals the parts of a segment
//
// Everything is AES-256-GCM with a tag of 16 bytes. HKDF is that of RFC 5869 with
// SHA-256 and 32 bytes of output.
//
// A place says where sealed bytes belong: a word, then fields, each as its length
// (varint) and its bytes. It is the HKDF info of the key and the beginning of the
// additional data, so that objects cannot be swapped. The words and fields are
//
//	"leeward slot 1"      vault id, the slot without its wrapped key
//	"leeward file slot 1" vault id, the slot without its wrapped key
//	"leeward outer slot 1" vault id, the slot without its wrapped key
//	"leeward disk key 1"  vault id, machine, disk
//	"leeward segment 1"   vault id, machine, disk, epoch u64, first u64, level u8
//	"leeward map 1"       vault id, machine, disk, epoch u64, first u64, last u64,
//	                      until epoch u64, until number u64, sources u64
//	"leeward point 1"     vault id, object key
//	"leeward pin 1"       vault id, object key
//
// Wrapped keys have a random nonce. A segment or point has 32 bytes of random salt,
// hence a key of its own, and its parts are numbered: the nonce is the part's kind
// (1 byte), 3 zero bytes and its ordinal (u64), the additional data is the place,
// kind, ordinal (u64) and whatever the part covers in the clear.
//
// A key file holds 32 random bytes, as text: "LWKEY1-", their base32 (RFC 4648, no
// padding, 52 characters), "-", and 8 characters of base32 that are the first 5 bytes
// of the SHA-256 of "leeward key file 1" and the 32 bytes, by which a mistyped key is
// told from a passphrase. Random bytes need no Argon2id: there is nothing to guess.
//
// This package never stores, logs or formats a key.
package seal
