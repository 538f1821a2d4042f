package wire

import (
	"bytes"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// Encode returns the bytes of a message: *Change, *Marker, *Receipt, *Event,
// *SumsRequest or *SumsReply. It sets the message's version. Encode checks what
// Decode would refuse, so that a bad message never leaves its maker.
func Encode[M message](m M) ([]byte, error) {
	m.setVersion()
	if err := m.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	e.UseCompactInts(true)
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("encode %T: %w", m, err)
	}
	return b.Bytes(), nil
}

type message interface {
	*Change | *Marker | *Receipt | *Event | *SumsRequest | *SumsReply
	setVersion()
	check() error
}

// DecodeChange reads a Change.
func DecodeChange(b []byte) (*Change, error) { m := new(Change); return m, decode(b, m) }

// DecodeMarker reads a Marker.
func DecodeMarker(b []byte) (*Marker, error) { m := new(Marker); return m, decode(b, m) }

// DecodeReceipt reads a Receipt.
func DecodeReceipt(b []byte) (*Receipt, error) { m := new(Receipt); return m, decode(b, m) }

// DecodeEvent reads an Event.
func DecodeEvent(b []byte) (*Event, error) { m := new(Event); return m, decode(b, m) }

// DecodeSumsRequest reads a SumsRequest.
func DecodeSumsRequest(b []byte) (*SumsRequest, error) { m := new(SumsRequest); return m, decode(b, m) }

// DecodeSumsReply reads a SumsReply.
func DecodeSumsReply(b []byte) (*SumsReply, error) { m := new(SumsReply); return m, decode(b, m) }

func decode[M message](b []byte, m M) error {
	if err := shape(b); err != nil {
		return err
	}
	d := msgpack.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(m); err != nil {
		return fmt.Errorf("%w: %T: %v", ErrMalformed, m, err)
	}
	return m.check()
}
