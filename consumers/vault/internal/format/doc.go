// Package format specifies the objects of a vault, byte for byte.
//
// Numbers of fixed width are big endian; "varint" is the unsigned LEB128 of
// encoding/binary, "zigzag" its signed form. "Sealed" bytes are AES-256-GCM
// ciphertext followed by its 16-byte tag; package seal says with which key, nonce
// and additional data. A block is 4096 bytes of a disk.
//
//	vault.json                                              what this is, in the clear
//	keys/vault/<slot>.key                                   the vault key, wrapped
//	keys/disks/<machine>/<disk>.key                         a disk key, wrapped
//	disks/<machine>/<disk>/<epoch>/l<level>/<first>.seg     links of one epoch
//	disks/<machine>/<disk>/<epoch>/m<level>/<links>.map     where the blocks are
//	points/<group>/<time>-<id>.point                        a recovery point
//	pins/<group>/<time>-<id>.pin                            keeps that point
//	records/<kind>/<name>/<version>.rec                     what control must remember
//
// <epoch>, <first> and <version> are 16 lower-case hex digits, so that keys sort as numbers
// do. <level> is 0 for segments as they were committed and 1 for folded ones, whose
// file name is <first>-<last>-<until epoch>-<until number>.seg, each 16 hex digits.
// <time> is UTC as 20060102T150405.000000000Z.
//
// # Versions
//
// Every object names its version near its beginning and, segments, at their end.
// A reader refuses a version that it does not know with ErrVersion and touches
// nothing. Within a version nothing is optional and no byte is free: what does not
// decode and encode again to the same bytes is damaged.
//
// # vault.json
//
// One JSON object in one line, written by Marker.Encode and compared as a whole:
// {"format":"leeward-vault","version":1,"id":<32 hex digits>,"check":<16 hex
// digits>} and a newline. check is the first 8 bytes of the SHA-256 of "leeward-vault
// <version> <id>".
//
// # Key slots and disk keys
//
//	slot      "LWSLOT\r\n" | version u16 | body length u16 | body | CRC-32C u32 of all before
//	body      msgpack array: id, kind, time, memory KiB, threads, salt, wrapped
//	outer     "LWXSLOT\n" | version u16 | body length u16 | body | CRC-32C u32 of all before
//	body      msgpack array: id, name, blob, wrapped
//	disk key  "LWDKEY\r\n" | version u16 | wrapped [60] | CRC-32C u32 of all before
//
// kind is 1 for a passphrase, with what Argon2id needs, and 3 for a random key, with
// 0 for time, memory and threads. A reader passes over slots of other kinds.
//
// An outer slot stands beside the others: a service wrapped the 32 bytes of a random
// key, which is blob, with its key of that name; the random key wraps the vault's.
//
// wrapped is a nonce of 12 bytes and a sealed key of 32. The CRC tells a damaged
// slot from a wrong passphrase; what keeps forgers out is the seal.
//
// # Segment
//
//	header    "LWSEG\r\n\x00" | version u16 | salt [32]
//	frames    each: length u32 | sealed [length]
//	sums      sealed
//	index     sealed
//	trailer   sealed
//	footer    salt [32] | trailer length u32 | version u16 | "LWEND\r\n\x00"
//
// The last bytes come first: from the footer a reader finds the trailer, from it
// the index and the sums, so that one read of the tail opens a segment of ordinary
// size. The header repeats the salt, and each frame carries its own extents, so
// that what is left of a segment can be read when its tail is lost.
//
//	frame     meta length varint | meta | data
//	meta      codec u8 | blocks varint | extents varint | extent ...
//	extent    start zigzag (from the end of the extent before) | count varint
//	          | off zigzag (from the end of the extent before; not with codec zeros)
//	index     packing u8 | unpacked length varint | (frames varint | entry ...)
//	entry     length varint (of sealed) | meta
//	sums      16 bytes for each block of each data extent, in the order of the index
//	trailer   msgpack array, see Trailer
//
// codec is 0 for data as it is, 1 for one zstd frame, 255 for zeros: then blocks
// is 0 and there is no data. Deltas in an entry count from the last extent of the
// entry before it, in a frame from 0. Extents of a frame ascend on the disk;
// extents of a segment do not overlap. packing is 0 for raw, 1 for one zstd frame
// around what stands in parentheses.
//
// The trailer's additional data holds the footer, so that the footer is sealed
// too; the header must equal what the footer says.
//
// # Point
//
//	point     "LWPOINT\n" | version u16 | salt [32] | sealed msgpack array, see Point; without its last element, Skew, and its machines without
//	                        theirs, Frozen, when all of those are 0
//
//	pin       "LWPIN\r\n\x00" | version u16 | salt [32] | sealed msgpack array, see Pin
//
//	record    "LWREC\r\n\x00" | version u16 | salt [32] | sealed msgpack array, see Record
//
// Of the versions of a record the highest counts; older ones may be missing.
//
// # Folded segments
//
// A folded segment stands for the consecutive segments of links first to last. Of
// what they map it holds the newest of each block, and nothing that links after
// last, up to the position until, overwrite or clear. So it shows a disk right at
// positions whose history contains until, and at no others. Its trailer has Prev and
// Open of the first of them and Hash, Size, Digest and Cut of the last. Its name is
// part of its place (package seal): a folded segment that is renamed does not open.
// If first is 1 and the epoch has no base, zeros may be left out.
//
// # Map
//
// A map says for every block of the disk where the segments of links first to last,
// seen together, hold it; so one object does for many segments' indexes, and only
// the pages are read that are wanted. Whatever it says can be had from the segments:
// maps may be lost. Its name is <first>-<last>-<until epoch>-<until number>-<sources>
// .map: it serves the positions that a folded segment of that name would. <sources>
// is 16 hex digits: the first 8 bytes of the SHA-256 of the keys of all segments it
// stands for, each followed by a newline.
//
//	header    "LWMAP\r\n\x00" | version u16 | salt [32]
//	pages     each sealed: packing u8 | unpacked length varint | page
//	groups    each sealed: sources
//	directory sealed: packing u8 | unpacked length varint | directory
//	trailer   sealed msgpack array, see MapTrailer
//	footer    as of a segment
//
//	page      frames varint | frame ... | pieces varint | piece ...
//	frame     source zigzag | ordinal zigzag | offset zigzag | length varint | blocks varint | codec u8
//	piece     blocks since the piece before varint | count varint | frame + 1 varint, 0 for zeros
//	          | off varint, unless zeros
//	sources   count varint | (epoch, first, level, last, until epoch, until number: varint | salt [32]) ...
//	directory pages varint | (pages skipped varint | length varint) ... | groups varint | length varint ...
//
// A page covers 2^14 blocks. Source, ordinal and offset of a frame count from the
// frame before, offset from its end. Groups have 128 sources, the last one the rest.
//
// # Limits
//
// Decoders check every length against the bytes that are there, and against the
// constants of this package, before they allocate.
//
// This package never reads or writes anything and knows no keys.
package format
