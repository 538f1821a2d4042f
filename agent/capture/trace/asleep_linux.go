package trace

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A machine that hibernates writes its memory to a swap area after it has taken the picture
// of it: when it wakes up, rings and counters are as they were in the picture and know
// nothing of those writes. Of two clocks of the kernel one goes on while a machine is
// suspended and the other does not; their difference tells, whatever the kind of sleep was.

// leastNap is more than reading the clocks may be off, and less than any hibernation.
const leastNap = 500 * time.Millisecond

// slept is how long the machine has been suspended since it was started.
func slept() (time.Duration, error) {
	best, least := time.Duration(0), time.Duration(1<<62)
	for range 10 {
		from, all, to := clock(unix.CLOCK_MONOTONIC), clock(unix.CLOCK_BOOTTIME), clock(unix.CLOCK_MONOTONIC)
		if from < 0 || all < 0 || to < 0 {
			return 0, fmt.Errorf("the kernel does not tell how long the machine was suspended")
		}
		if d := to - from; d < least {
			best, least = all-from-d/2, d
		}
		if least < leastNap/10 {
			break
		}
	}
	return max(best, 0), nil
}

// clock reads a clock, -1 if there is none.
func clock(id int32) time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(id, &t) != nil {
		return -1
	}
	return time.Duration(t.Nano())
}

// dozed says what a sleep since another look means.
func dozed(before, now time.Duration) error {
	if d := now - before; d >= leastNap {
		return fmt.Errorf("the machine was suspended for %v: what its going to sleep wrote is not known", d.Round(time.Second/10))
	}
	return nil
}

// wake notes how long the machine has been suspended when recording begins.
func (s *Source) wake() (err error) {
	s.awake, err = s.slept()
	return err
}

// doze looks whether the machine was suspended since.
func (s *Source) doze() {
	now, err := s.slept()
	if err == nil {
		err = dozed(s.awake, now)
	}
	if err != nil {
		s.breaks(err)
	}
}
