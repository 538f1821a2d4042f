package process

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// ask is a request for sums. It is answered when the vault holds everything that
// was here when it came, so that the answer never is older than what the agent
// has sent before.
type ask struct {
	req   *wire.SumsRequest
	reply func(*wire.SumsReply)
	want  vault.Position
	until time.Time
}

func (a *ask) refuse(format string, args ...any) {
	a.reply(&wire.SumsReply{Epoch: a.req.Epoch, Start: a.req.Start, Error: short(fmt.Sprintf(format, args...))})
}

// asked takes a request for sums to its disk.
func (s *Server) asked(m *nats.Msg) {
	respond := func(r *wire.SumsReply) {
		b, err := wire.Encode(r)
		if err == nil {
			err = m.Respond(b)
		}
		if err != nil {
			s.log.Debug("a request for sums was not answered", "subject", m.Subject, "err", err)
		}
	}
	req, err := wire.DecodeSumsRequest(m.Data)
	if err != nil {
		respond(&wire.SumsReply{Error: short(err.Error())})
		return
	}
	a := &ask{req: req, reply: respond, until: time.Now().Add(s.tempo.ask)}
	t := strings.Split(m.Subject, ".")
	if len(t) != 5 || s.pool.SumsSubject(t[3], t[4]) != m.Subject || streams.ValidName("machine", t[3]) != nil || streams.ValidName("disk", t[4]) != nil {
		a.refuse("subject %q names no disk", m.Subject)
		return
	}
	d := s.pin(vault.DiskID{Machine: t[3], Disk: t[4]})
	if d == nil {
		a.refuse("the process server is stopping")
		return
	}
	defer s.unpin(d)
	select {
	case d.asks <- a:
	default:
		a.refuse("too many requests for sums of this disk")
	}
}

// answer replies to the questions whose time has come. No task may be running: it
// might change the sums.
func (d *disk) answer() {
	if d.reload || d.stale {
		return
	}
	var rest []*ask
	for _, a := range d.questions {
		switch {
		case less(d.head.Position, a.want):
			rest = append(rest, a)
		case a.req.Epoch != d.head.Epoch:
			a.refuse("the vault stands in epoch %d", d.head.Epoch)
		default:
			sums := d.w.Sums(a.req.Start, int(a.req.Count))
			b := make([]byte, 0, 16*len(sums))
			for _, s := range sums {
				b = append(b, s[:]...)
			}
			a.reply(&wire.SumsReply{Epoch: a.req.Epoch, Start: a.req.Start, Sums: b})
		}
	}
	d.questions = rest
}

// expire refuses the questions that have waited too long.
func (d *disk) expire(now time.Time) {
	var rest []*ask
	for _, a := range d.questions {
		switch {
		case now.Before(a.until):
			rest = append(rest, a)
		case d.failing != nil:
			a.refuse("%v", d.failing)
		default:
			a.refuse("the vault is busy with what was sent before")
		}
	}
	d.questions = rest
}
