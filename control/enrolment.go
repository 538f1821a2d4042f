package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/enrol"
	"github.com/leeward-dr/leeward/streams/wire"
)

var _ api.Enroller = (*Service)(nil)

// LetIn makes this control one that lets agents in. Call it before Start.
func (s *Service) LetIn(ctx context.Context, o enrol.Options) error {
	o.Log, o.Tell = s.log, s.Tell
	e, err := enrol.New(ctx, s.bus.JS, o)
	if err != nil {
		return err
	}
	s.enrol = e
	return nil
}

// Enrolment implements api.Enroller.
func (s *Service) Enrolment() (*enrol.Service, error) {
	if s.enrol == nil {
		return nil, api.Errorf(api.CodeRefused, "ask the control that has the keys (DIR/trust)", "this control has no keys to let agents in")
	}
	return s.enrol, nil
}

// Tell publishes an event, also into the log if the bus does not take it.
func (s *Service) Tell(e *wire.Event) { s.publish(s.base, "", e) }

// Refused tells of something that a server refused a user: who, as far as it is
// known, and what. It comes once a minute for the same, with how often it happened.
func (s *Service) Refused(publicKey, what string, times int) {
	if s.base.Err() != nil {
		return // the log has it
	}
	ctx, cancel := context.WithTimeout(s.base, publishTime)
	defer cancel()
	machine := ""
	if s.enrol != nil {
		machine, _ = s.enrol.Who(ctx, publicKey) // without it the key has to do
	}
	e := refusal(machine, publicKey, what, times)
	e.Time = time.Now().UnixNano()
	s.Tell(e)
}

// unknownMachine is what events of users without a machine are filed under.
const unknownMachine = "bus"

func refusal(machine, publicKey, what string, times int) *wire.Event {
	e := &wire.Event{Machine: machine, Kind: "refused", Severity: wire.Warning, Try: "an agent does not do that by itself: see who has its key; leeward agent revoke " + machine}
	who := "the agent of machine " + machine
	if machine == "" {
		e.Machine, who, e.Try = unknownMachine, "a user", "leeward agent ls shows whose key it is not: then it is one of those in DIR/contexts"
	}
	e.What = who + " (" + publicKey + ") was refused: " + what
	if times > 1 {
		e.What += fmt.Sprintf(", %d times", times)
	}
	if len(e.What) > wire.MaxText {
		e.What = strings.ToValidUTF8(e.What[:wire.MaxText], "")
	}
	return e
}
