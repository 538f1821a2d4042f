package wire

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Describe decodes any message of the bus for people: the result marshals to JSON
// that can be read, with times as text, hashes and sums shortened, and data
// replaced by its length and first bytes. The subject says what to expect; if it
// is empty or not one of ours (a translated stream, a reply), the payload does. A
// copy that came without its payload is described as such. Errors are ErrVersion
// and ErrMalformed.
func Describe(subject string, payload []byte) (any, error) {
	if len(payload) == 0 {
		return note{Message: "none", Note: "no payload; taps see the headers only"}, nil
	}
	if payload[0] == '{' { // leases are kept as JSON; no message of ours starts so
		var v any
		if err := json.Unmarshal(payload, &v); err != nil {
			return nil, malformed("neither a message nor JSON: %v", err)
		}
		return v, nil
	}
	if err := checkVersion(payload, BlockVersion); err != nil {
		return nil, err
	}
	elements := (&reader{b: payload}).array(len(payload), 1)
	for _, s := range shapes {
		if strings.HasPrefix(subject, s.subject) || strings.HasPrefix(subject, s.tap) && s.tap != "" {
			return s.describe(payload)
		}
	}
	for _, s := range shapes {
		if s.elements == elements {
			return s.describe(payload)
		}
	}
	return nil, malformed("%d elements: no message of version %d has as many", elements, Version)
}

// shapes knows each message by its subject and, all different in this version, by
// its number of elements.
var shapes = [...]struct {
	subject, tap string
	elements     int
	describe     func([]byte) (any, error)
}{
	{"leeward.changes.", "leeward.tap.changes.", (*Change)(nil).elements(), describer(DecodeChange, viewChange)},
	{"leeward.markers.", "", new(Marker).elements(), describer(DecodeMarker, viewMarker)},
	{"leeward.markers.", "", (&Marker{Took: 1}).elements(), describer(DecodeMarker, viewMarker)},
	{"leeward.receipts.", "", (*Receipt)(nil).elements(), describer(DecodeReceipt, viewReceipt)},
	{"leeward.events.", "", (*Event)(nil).elements(), describer(DecodeEvent, viewEvent)},
	{"leeward.sums.", "", (*SumsRequest)(nil).elements(), describer(DecodeSumsRequest, viewSumsRequest)},
	{"_INBOX.", "", (*SumsReply)(nil).elements(), describer(DecodeSumsReply, viewSumsReply)},
}

func describer[M, V any](decode func([]byte) (*M, error), view func(*M) V) func([]byte) (any, error) {
	return func(b []byte) (any, error) {
		m, err := decode(b)
		if err != nil {
			return nil, err
		}
		return view(m), nil
	}
}

// The views. Their JSON is for eyes and jq; it may gain fields.

type note struct {
	Message string `json:"message"`
	Note    string `json:"note"`
}

type changeView struct {
	Message string     `json:"message"`
	Kind    string     `json:"kind"`
	Machine string     `json:"machine"`
	Disk    string     `json:"disk"`
	Epoch   uint64     `json:"epoch"`
	Number  uint64     `json:"number"`
	Prev    string     `json:"prev,omitempty"`
	Time    string     `json:"time"`
	Open    *Open      `json:"open,omitempty"`
	Block   *blockView `json:"block,omitempty"`
	Cut     *cutView   `json:"cut,omitempty"`
}

type blockView struct {
	Codec   string   `json:"codec"`
	Raw     uint32   `json:"raw_bytes"`
	Extents []string `json:"extents"`
	Sums    string   `json:"sums"`
	Data    string   `json:"data"`
}

type cutView struct {
	Point       string      `json:"point"`
	Group       string      `json:"group"`
	Time        string      `json:"time"`
	Consistency Consistency `json:"consistency"`
	Size        uint64      `json:"size"`
}

type markerView struct {
	Message     string      `json:"message"`
	ID          string      `json:"id"`
	Group       string      `json:"group"`
	Time        string      `json:"time"`
	Consistency Consistency `json:"consistency"`
	Frozen      string      `json:"frozen"`
	Skew        string      `json:"skew,omitempty"`
	Took        string      `json:"took,omitempty"`
	Members     []Member    `json:"members"`
}

type receiptView struct {
	Message    string `json:"message"`
	Machine    string `json:"machine"`
	Disk       string `json:"disk"`
	Epoch      uint64 `json:"epoch"`
	Number     uint64 `json:"number"`
	Hash       string `json:"hash"`
	BaseEpoch  uint64 `json:"base_epoch"`
	BaseNumber uint64 `json:"base_number"`
	Size       uint64 `json:"size"`
	Digest     string `json:"digest"`
	Resend     bool   `json:"resend"`
	Reason     string `json:"reason,omitempty"`
	Time       string `json:"time"`
}

type eventView struct {
	Message  string   `json:"message"`
	Time     string   `json:"time"`
	Machine  string   `json:"machine"`
	Disk     string   `json:"disk,omitempty"`
	Kind     string   `json:"kind"`
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Try      string   `json:"try,omitempty"`
}

type sumsView struct {
	Message string `json:"message"`
	Epoch   uint64 `json:"epoch"`
	Start   uint64 `json:"start"`
	Count   uint32 `json:"count,omitempty"`
	Sums    string `json:"sums,omitempty"`
	Error   string `json:"error,omitempty"`
}

func viewChange(m *Change) changeView {
	v := changeView{
		Message: "change", Kind: m.Kind.String(), Machine: m.Machine, Disk: m.Disk,
		Epoch: m.Epoch, Number: m.Number, Time: clock(m.Time), Open: m.Open,
	}
	if m.Prev != (Hash{}) {
		v.Prev = short(m.Prev[:])
	}
	if b := m.Block; b != nil {
		v.Block = &blockView{Codec: b.Codec.String(), Raw: b.Raw, Extents: extents(b.Extents), Sums: sumTexts(b.Sums), Data: peek(b.Data)}
	}
	if c := m.Cut; c != nil {
		v.Cut = &cutView{Point: c.Point, Group: c.Group, Time: clock(c.Time), Consistency: c.Consistency, Size: c.Size}
	}
	return v
}

func viewMarker(m *Marker) markerView {
	v := markerView{
		Message: "marker", ID: m.ID, Group: m.Group, Time: clock(m.Time),
		Consistency: m.Consistency, Frozen: time.Duration(m.Frozen).String(), Members: m.Members,
	}
	if m.barrier() {
		v.Skew, v.Took = time.Duration(m.Skew).String(), time.Duration(m.Took).String()
	}
	return v
}

func viewReceipt(m *Receipt) receiptView {
	return receiptView{
		Message: "receipt", Machine: m.Machine, Disk: m.Disk, Epoch: m.Epoch, Number: m.Number, Hash: short(m.Hash[:]),
		BaseEpoch: m.BaseEpoch, BaseNumber: m.BaseNumber, Size: m.Size, Digest: short(m.Digest[:]),
		Resend: m.Resend, Reason: m.Reason, Time: clock(m.Time),
	}
}

func viewEvent(m *Event) eventView {
	return eventView{
		Message: "event", Time: clock(m.Time), Machine: m.Machine, Disk: m.Disk, Kind: m.Kind,
		Severity: m.Severity, What: m.What, Try: m.Try,
	}
}

func viewSumsRequest(m *SumsRequest) sumsView {
	return sumsView{Message: "sums request", Epoch: m.Epoch, Start: m.Start, Count: m.Count}
}

func viewSumsReply(m *SumsReply) sumsView {
	return sumsView{Message: "sums reply", Epoch: m.Epoch, Start: m.Start, Sums: sumTexts(m.Sums), Error: m.Error}
}

func clock(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano) }

func short(b []byte) string { return hex.EncodeToString(b[:6]) + "…" }

// extents lists the first few as "start+count kind", in blocks.
func extents(all []Extent) []string {
	const few = 16
	out := make([]string, 0, min(len(all), few+1))
	for i, e := range all {
		if i == few {
			return append(out, fmt.Sprintf("… and %d more", len(all)-few))
		}
		out = append(out, fmt.Sprintf("%d+%d %s", e.Start, e.Count, e.Kind))
	}
	return out
}

func sumTexts(b []byte) string {
	if len(b) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, first %s", len(b)/16, short(b))
}

func peek(b []byte) string {
	if len(b) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d bytes: %s", len(b), hex.EncodeToString(b[:min(len(b), 16)]))
}
