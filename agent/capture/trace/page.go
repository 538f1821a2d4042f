package trace

import (
	"bytes"
	"errors"
	"fmt"
)

// Bits of the page header's commit word beside the length.
const (
	missedEvents = 1 << 31 // events before this page were lost
	missedStored = 1 << 30 // their number is stored behind the data
)

// Types of ring record; below typeMax is a length in words.
const (
	typeLong      = 0
	typePadding   = 29
	typeTimeDelta = 30
	typeTimeStamp = 31
)

var errPage = errors.New("malformed ring page")

// event is what the driver needs of one completed request.
type event struct {
	sector uint64 // of 512 bytes, on the whole disk
	count  uint32 // sectors
	kind   kind
}

// sink is what is called with the events of a page.
type sink struct {
	done   func(event)               // a request was completed
	queued func(dev uint32, e event) // a bio was handed to a disk or partition; may be nil
	said   func(text []byte)         // a line of the kernel's log; may be nil
}

// page reads the events of one page as the kernel wrote it and calls to with each
// event of the layout's kinds. missed says that events before it were lost, records
// is how many records of any kind the kernel counts on it. It allocates nothing; b
// may hold anything.
func (l *layout) page(b []byte, to *sink) (missed bool, records uint64, err error) {
	if len(b) < l.dataOff {
		return false, 0, fmt.Errorf("%w: %d bytes are less than a header", errPage, len(b))
	}
	// The kernel adds bit 31 as a signed number, so the upper half may be all ones.
	commit := order.Uint32(b[8:])
	if l.commitSize == 8 {
		commit = uint32(order.Uint64(b[8:]))
	}
	missed = commit&missedEvents != 0
	length := commit &^ (missedEvents | missedStored)
	if uint64(length) > uint64(len(b)-l.dataOff) {
		return missed, 0, fmt.Errorf("%w: says it has %d bytes, has %d", errPage, length, len(b)-l.dataOff)
	}
	data := b[l.dataOff : l.dataOff+int(length)]
	for len(data) > 0 {
		if size := l.quick(data, to.done); size > 0 {
			records++
			data = data[size:]
			continue
		}
		payload, size, err := cutRecord(data)
		if err != nil {
			return missed, records, err
		}
		if payload != nil {
			records++
			if err := l.event(payload, to); err != nil {
				return missed, records, err
			}
		}
		data = data[size:]
	}
	return missed, records, nil
}

// quick does what cutRecord and event do for a record of the commonest kind: a request
// completed, its length in its type. It returns the size, 0 if it is not for this record.
func (l *layout) quick(data []byte, done func(event)) (size int) {
	if bigEndian || len(data) < 4+l.minimum {
		return 0
	}
	typ := int(order.Uint32(data) & 31)
	size = 4 + 4*typ
	if typ == typeLong || typ >= typePadding || size > len(data) || size < 4+l.minimum {
		return 0
	}
	p := data[4:size]
	if order.Uint16(p) != l.id {
		return 0
	}
	if e, ok := eventOf(p, l.sector, l.count, l.rwbs); ok {
		done(e)
	}
	return size
}

// cutRecord cuts the first record off data: its payload, nil if it carries none, and
// its whole size.
func cutRecord(data []byte) (payload []byte, size int, err error) {
	if len(data) < 4 {
		return nil, 0, fmt.Errorf("%w: %d bytes left over", errPage, len(data))
	}
	word := order.Uint32(data)
	typ, delta := word&31, word>>5
	if bigEndian {
		typ, delta = word>>27, word&(1<<27-1)
	}
	if typ == typePadding && delta == 0 {
		return nil, len(data), nil // nothing more on this page
	}
	head := 4
	switch typ {
	case typeTimeDelta, typeTimeStamp:
		size = 8
	case typeLong, typePadding:
		if len(data) < 8 {
			return nil, 0, fmt.Errorf("%w: length word is cut off", errPage)
		}
		n := order.Uint32(data[4:])
		if n < 4 || n > uint32(len(data)) {
			return nil, 0, fmt.Errorf("%w: record of %d bytes in %d", errPage, n, len(data))
		}
		head, size = 8, 4+int(n)
	default:
		size = 4 + int(typ)*4
	}
	if size > len(data) {
		return nil, 0, fmt.Errorf("%w: record of %d bytes in %d", errPage, size, len(data))
	}
	if typ >= typePadding {
		return nil, size, nil
	}
	return data[head:size], size, nil
}

// event reads one event's payload.
func (l *layout) event(p []byte, to *sink) error {
	if len(p) < 2 {
		return fmt.Errorf("%w: event of %d bytes", errPage, len(p))
	}
	switch id := order.Uint16(p); {
	case id == l.id:
		if len(p) < l.minimum {
			return fmt.Errorf("%w: event of %d bytes, want %d", errPage, len(p), l.minimum)
		}
		if e, ok := eventOf(p, l.sector, l.count, l.rwbs); ok {
			to.done(e)
		}
	case id == l.bio.id && to.queued != nil:
		if len(p) < l.bio.minimum {
			return fmt.Errorf("%w: event of a bio of %d bytes, want %d", errPage, len(p), l.bio.minimum)
		}
		if e, ok := eventOf(p, l.bio.sector, l.bio.count, l.bio.rwbs); ok {
			to.queued(order.Uint32(p[l.bio.dev.off:]), e)
		}
	case id == l.text.id && to.said != nil:
		text, ok := textOf(p, l.text.msg)
		if !ok {
			return fmt.Errorf("%w: text lies outside its event of %d bytes", errPage, len(p))
		}
		to.said(text)
	}
	return nil // the ring may carry other events, for example markers
}

func eventOf(p []byte, sector, count, rwbs field) (event, bool) {
	e := event{
		sector: order.Uint64(p[sector.off:]),
		count:  order.Uint32(p[count.off:]),
		kind:   kindOf(p[rwbs.off : rwbs.off+rwbs.size]),
	}
	return e, e.kind != kindNone && e.count > 0
}

// textOf is the text to which a word of an event points.
func textOf(p []byte, word field) ([]byte, bool) {
	if word.off+word.size > len(p) {
		return nil, false
	}
	w := order.Uint32(p[word.off:])
	from, n := int(w&0xffff), int(w>>16)
	if from+n > len(p) {
		return nil, false
	}
	text, _, _ := bytes.Cut(p[from:from+n], []byte{0})
	return text, true
}

// blocks are the blocks of 4096 bytes that an event touches, cut at the end of a
// disk that has limit blocks. ok is false if it lies beyond the end as a whole.
func (e event) blocks(limit uint64) (start, count uint64, ok bool) {
	const per = 8 // sectors in a block
	start = e.sector / per
	if start >= limit {
		return 0, 0, false
	}
	end := e.sector%per + uint64(e.count) // sectors from start's first one
	count = min((end+per-1)/per, limit-start)
	return start, count, true
}
