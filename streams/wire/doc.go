// Package wire specifies the messages on the streams, byte for byte.
//
// Every message is one msgpack array whose first element is the version, so that
// a reader can refuse what it does not know before it decodes the rest. A reader
// refuses a version that it does not know with ErrVersion. Everything is of version 1
// but changes that carry blocks: they are of version 2, and those of version 1 are still
// read. So process servers are upgraded before agents.
//
// Elements are numbers (signed only where a time may be), booleans, texts (str)
// and bytes (bin); structures are arrays of their elements, absent ones nil, lists
// are arrays, an empty list or byte string has length 0. Everything is written in
// its shortest form and readers refuse any other, so a message has one encoding.
// Any msgpack library can read it; the struct tags let Go's do so.
//
//	message        subject                 elements
//	Change         leeward.changes.…       version kind machine disk epoch number prev time open block cut
//	Marker         leeward.markers.<group> version id group time consistency frozen members
//	Receipt        leeward.receipts.…      version machine disk epoch number hash base_epoch base_number
//	                                       size digest resend reason time
//	Event          leeward.events.…        version time machine disk kind severity what try
//	SumsRequest    leeward.sums.…          version epoch start count
//	SumsReply      (reply)                 version epoch start sums error
//
//	open           size capture guarantee host instance path identity reason min_epoch min_number
//	block          codec raw extents sums check data (version 1: without check)
//	extent         start count kind
//	cut            point group time consistency size
//	member         machine facts disks
//	(barrier)      a marker of a barrier has two elements more, skew and took, and its
//	               members one more, frozen; one of them at least is not 0
//	facts          host cpus memory firmware os kernel nics
//	disk of member disk epoch number size frozen note
//
// # The chain of a disk
//
// The changes of a disk form a chain. Within an epoch they are numbered from 1
// without gaps, and prev is the hash of the message before (32 zero bytes in number
// 1): the SHA-256 of its encoded bytes, of a block of version 2 of those before the
// bytes of data. What the data says is fixed by the sums, which are hashed; what
// happens to it on the way is seen by check, its CRC-32C, which every reader compares.
// Number 1 is always an Open. An epoch starts where the vault
// stands when it reads the Open: the process server writes its own position in
// the epoch before as the new epoch's base and says so in the receipt. Epochs of
// a disk only grow. A reader drops what it has already, asks for what is missing
// (Receipt.Resend), and refuses a message whose prev does not fit.
//
// # Blocks, sums
//
// All extents count in blocks of BlockSize bytes. The last block of a disk whose
// size is no multiple of BlockSize is padded with zeros. A BlockSum is the first
// 16 bytes of the SHA-256 of a block; the sum of a block of zeros is 16 zero
// bytes. A Block message carries the sums of its data blocks as the agent read
// them, so that what comes out of the vault can be compared with what went in.
//
// # Headers
//
// What a person tapping the bus wants to know stands in NATS headers as text:
// Leeward-Kind, Leeward-Machine, Leeward-Disk, Leeward-Epoch, Leeward-Number, and
// where they apply Leeward-Offset and Leeward-Length (bytes, of the first extent
// and in all), Leeward-Codec, Leeward-Point, Leeward-Consistency. Headers are for
// people: programs read the payload.
//
// This package never compresses, encrypts or sends anything.
package wire
