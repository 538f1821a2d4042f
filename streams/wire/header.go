package wire

import (
	"fmt"
	"strconv"
)

// Header holds what a person tapping the bus wants to know of a message, see the
// package comment. It converts to nats.Header.
type Header map[string][]string

// MsgID is the Nats-Msg-Id of a change: "<machine>/<disk>/<epoch>/<number>". The
// same link always has the same id, so that sending it twice stores it once.
func MsgID(c *Change) string {
	return c.Machine + "/" + c.Disk + "/" + strconv.FormatUint(c.Epoch, 10) + "/" + strconv.FormatUint(c.Number, 10)
}

// Headers returns the headers of a change. Nats-Msg-Id is not among them.
func Headers(c *Change) Header {
	h := Header{}
	set := func(key, value string) { h["Leeward-"+key] = []string{value} }
	number := func(key string, v uint64) { set(key, strconv.FormatUint(v, 10)) }
	set("Kind", c.Kind.String())
	set("Machine", c.Machine)
	set("Disk", c.Disk)
	number("Epoch", c.Epoch)
	number("Number", c.Number)
	switch {
	case c.Open != nil:
		number("Length", c.Open.Size)
	case c.Block != nil:
		if len(c.Block.Extents) > 0 {
			number("Offset", c.Block.Extents[0].Start*BlockSize)
		}
		blocks := uint64(0)
		for _, e := range c.Block.Extents {
			blocks += uint64(e.Count)
		}
		number("Length", blocks*BlockSize)
		set("Codec", c.Block.Codec.String())
	case c.Cut != nil:
		set("Point", c.Cut.Point)
		set("Consistency", string(c.Cut.Consistency))
	}
	return h
}

// String is the kind's name in headers: "open", "block" or "cut".
func (k Kind) String() string { return name("kind", int(k), "", "open", "block", "cut") }

// String is the codec's name in headers: "raw" or "zstd".
func (c Codec) String() string { return name("codec", int(c), "raw", "zstd") }

// String is the extent kind's name: "data", "zero" or "discard".
func (k ExtentKind) String() string { return name("extent", int(k), "data", "zero", "discard") }

func name(what string, i int, names ...string) string {
	if i < len(names) && names[i] != "" {
		return names[i]
	}
	return fmt.Sprintf("%s %d", what, i)
}
