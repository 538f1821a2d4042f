package format

import "fmt"

// Limits of records.
const (
	MaxRecord   = 1 << 20 // bytes of a record's value
	recordMagic = "LWREC\r\n\x00"
)

// Record is one version of a document that control keeps.
type Record struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	Time  int64  // when it was written
	By    string // who decided it; may be empty
	Gone  bool   // the document was removed; Value is empty
	Value []byte
}

// AppendRecordHeader appends what stands before the sealed record to b.
func AppendRecordHeader(b []byte, salt [SaltSize]byte) []byte {
	return append(appendMagic(b, recordMagic), salt[:]...)
}

// SplitRecord takes a record's object apart.
func SplitRecord(b []byte) (header []byte, salt [SaltSize]byte, sealed []byte, err error) {
	return split(b, recordMagic, PointHeaderSize+Overhead+MaxRecord+2*MaxText)
}

// EncodeRecord returns the bytes of r's record, or what is wrong with it.
func EncodeRecord(r *Record) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return encode(r)
}

// DecodeRecord reads an opened record.
func DecodeRecord(b []byte) (*Record, error) {
	r := new(Record)
	if err := decode(b, r); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return r, r.check()
}

func (r *Record) check() error {
	if len(r.Value) > MaxRecord {
		return malformed("record of %d bytes, at most %d", len(r.Value), MaxRecord)
	}
	if r.Gone && len(r.Value) > 0 {
		return malformed("record of a document that is gone, with %d bytes", len(r.Value))
	}
	return checkText(r.By)
}
