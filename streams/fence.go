package streams

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Fences is the key-value bucket that says which machines nobody may write the changes
// of, or only one writer; a key is a machine. Only control writes it.
const Fences = "LEEWARD_FENCES"

// maxFence bounds what a decoder takes, and maxWhy the reason in it, in bytes.
const (
	maxFence = 8 << 10
	maxWhy   = 1 << 10
)

// Fence keeps a machine's old writers out: process servers refuse every link of its disks
// that is not of an epoch that Holder opened. An epoch's number does not tell: an agent
// that comes back opens a newer one.
type Fence struct {
	Machine    string    `json:"machine"`
	Generation uint64    `json:"generation"`       // grows with every failover of the machine
	Holder     string    `json:"holder,omitempty"` // instance (see wire.Open) that may write; empty: nobody
	Why        string    `json:"why"`              // one sentence, for people
	Since      time.Time `json:"since"`
}

// ErrMalformed means that bytes are no fence.
var ErrMalformed = errors.New("malformed fence")

// Encode returns the bytes of f.
func (f *Fence) Encode() ([]byte, error) {
	if len(f.Why) > maxWhy {
		c := *f
		c.Why = string(bytes.ToValidUTF8([]byte(f.Why[:maxWhy]), nil))
		f = &c
	}
	return json.Marshal(f)
}

// DecodeFence reads the fence under the key of a machine. A fence of another machine, or
// one that says more than this program knows, is refused: who cannot read a fence must
// not take it for none.
func DecodeFence(machine string, b []byte) (*Fence, error) {
	if len(b) > maxFence {
		return nil, fmt.Errorf("%w of machine %s: %d bytes, at most %d", ErrMalformed, machine, len(b), maxFence)
	}
	f := new(Fence)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(f)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("more than one document")
		}
	}
	switch {
	case err != nil:
	case f.Machine != machine || ValidName("machine", machine) != nil:
		err = fmt.Errorf("it is of machine %q", f.Machine)
	case f.Holder != "" && ValidName("holder", f.Holder) != nil:
		err = fmt.Errorf("its holder is %q", f.Holder)
	case len(f.Why) > maxWhy:
		err = fmt.Errorf("its reason has %d bytes, at most %d", len(f.Why), maxWhy)
	}
	if err != nil {
		return nil, fmt.Errorf("%w of machine %s: %w", ErrMalformed, machine, err)
	}
	return f, nil
}
