package blocks

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A disk that is slowed down by its stream all the time does not fill the log.
func TestRefusalsAreToldOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := &Publisher{o: Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, machine: "m", disk: "d"}
		p.lastError.Store("")
		for range 150 { // one a second, each of two tries
			p.refuse(errors.New("full"))
			p.refuse(errors.New("still full"))
			p.lastError.Store("")
			time.Sleep(time.Second)
		}
		if n := strings.Count(log.String(), "takes no changes"); n != 3 {
			t.Errorf("told %d times in 150 s: %s", n, log.String())
		}
		for _, w := range []string{"times=1\n", "times=60\n", "disk=d", "error=full"} {
			if !strings.Contains(log.String(), w) {
				t.Errorf("%q is not in %s", w, log.String())
			}
		}
		if s := p.Stats(); s.Refused != 300 || s.LastError != "" {
			t.Errorf("counted %+v", s)
		}
	})
}
