package failover

import "fmt"

// State is where a job stands.
type State string

// The states of a job.
const (
	Validating  State = "validating"  // the point is chosen, the target asked whether it can
	Opening     State = "opening"     // the disks are opened in the vault
	Booting     State = "booting"     // the target starts the machine or writes the files
	Probing     State = "probing"     // waiting for proof of life
	Alive       State = "alive"       // proved; waits for cleanup
	Failed      State = "failed"      // did not come up; waits for cleanup
	Interrupted State = "interrupted" // the process that ran it is gone; waits for cleanup
	Cleaning    State = "cleaning"
	Cleaned     State = "cleaned" // nothing is left but a line of history
)

// Event is what happens to a job.
type Event string

// The events of a job.
const (
	Done      Event = "done"    // the work of the present state succeeded
	Fail      Event = "fail"    // it failed
	Restart   Event = "restart" // the process was started anew, the machine is gone
	Adopt     Event = "adopt"   // the process was started anew, the machine is not gone
	Revive    Event = "revive"  // the machine is gone and is started again
	Cleanup   Event = "cleanup" // the operator wants it gone
	CleanFail Event = "clean-fail"
)

// Running reports whether the engine works on a job in this state.
func (s State) Running() bool {
	switch s {
	case Validating, Opening, Booting, Probing, Cleaning:
		return true
	}
	return false
}

// Waiting reports whether a job in this state waits for cleanup.
func (s State) Waiting() bool { return s == Alive || s == Failed || s == Interrupted }

var forward = map[State]State{
	Validating: Opening, Opening: Booting, Booting: Probing, Probing: Alive, Cleaning: Cleaned,
}

// Step returns the state that follows s after e, or an error if e makes no sense
// in s; then the state does not change.
func Step(s State, e Event) (State, error) {
	switch e {
	case Done:
		if next, ok := forward[s]; ok {
			return next, nil
		}
	case Fail:
		if s.Running() && s != Cleaning {
			return Failed, nil
		}
	case Restart:
		switch {
		case s.Running() || s == Alive:
			return Interrupted, nil
		case s == Failed || s == Interrupted || s == Cleaned:
			return s, nil
		}
	case Adopt:
		switch s {
		case Booting:
			return Probing, nil // it was started, or the probe will tell that it could not be
		case Probing, Alive:
			return s, nil
		}
	case Revive:
		if s == Alive || s == Probing || s == Booting {
			return Booting, nil
		}
	case Cleanup:
		if s != Cleaned {
			return Cleaning, nil // cleaning again is harmless
		}
	case CleanFail:
		if s == Cleaning {
			return Failed, nil
		}
	}
	return s, fmt.Errorf("a job that is %s cannot take %s", s, e)
}
