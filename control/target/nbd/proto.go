package nbd

// The numbers of the protocol. Names are the protocol document's.
const (
	magicServer   = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply = 0x0003e889045565a9
	magicRequest  = 0x25609513
	magicSimple   = 0x67446698
	magicChunk    = 0x668e33ef

	flagFixedNewstyle = 1 << 0 // handshake and client flags
	flagNoZeroes      = 1 << 1
)

const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMeta        = 9
	optSetMeta         = 10
)

const (
	repAck     = 1
	repServer  = 2
	repInfo    = 3
	repMeta    = 4
	repError   = 1 << 31
	repUnsup   = repError | 1
	repInvalid = repError | 3
	repUnknown = repError | 6
	repTooBig  = repError | 9
)

const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Flags of an export.
const (
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagSendDF          = 1 << 7
	flagMultiConn       = 1 << 8
	flagSendCache       = 1 << 10
	flagSendFastZero    = 1 << 11
)

const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdCache       = 5
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

const (
	cmdFUA      = 1 << 0
	cmdNoHole   = 1 << 1
	cmdDF       = 1 << 2
	cmdReqOne   = 1 << 3
	cmdFastZero = 1 << 4
)

const (
	chunkDone = 1 << 0 // flag

	chunkNone        = 0
	chunkData        = 1
	chunkHole        = 2
	chunkBlockStatus = 5
	chunkError       = 1<<15 | 1
)

const (
	contextAllocation = "base:allocation"
	contextID         = 1

	stateHole = 1 << 0
	stateZero = 1 << 1
)

// The limits, in bytes where nothing else is said.
const (
	MaxRequest  = 32 << 20 // one read or write; clients that do not ask assume this
	MaxRequests = 16       // requests of a connection in flight
	MaxBytes    = 32 << 20 // data of a connection's requests in flight
	MaxConns    = 16       // connections of a server

	maxOption   = 16 << 10 // an option's data
	maxOptions  = 256      // options before the transmission starts
	maxName     = 4096     // a name's length, by the protocol
	maxExtents  = 2048     // extents in a reply to BLOCK_STATUS
	minHole     = 16 << 10 // shorter holes are sent as data
	requestSize = 28
)
