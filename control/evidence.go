package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/leeward-dr/leeward/control/api"
)

// Evidence implements api.Witness. While a machine comes up, what it says can be read
// already.
func (s *Service) Evidence(_ context.Context, r api.EvidenceRequest) (*api.Evidence, error) {
	j, err := s.engine.Job(r.Job)
	if err != nil {
		return nil, err
	}
	e := &api.Evidence{Schema: "leeward.evidence.v1", Job: j.ID}
	if j.Directory == "" {
		return e, nil // it was cleaned
	}
	serial, screen := filepath.Join(j.Directory, "run", "serial.log"), ""
	if j.Result != nil {
		serial, screen = cmp.Or(j.Result.SerialLog, serial), j.Result.Screen
	}
	text, n, err := lastOf(serial, api.MaxSerial)
	if err != nil {
		return nil, fmt.Errorf("read what the machine of job %s said: %w", j.ID, err)
	}
	e.Serial, e.SerialBytes = strings.ToValidUTF8(string(text), "\uFFFD"), n
	if screen != "" {
		b, n, err := lastOf(screen, api.MaxScreen)
		if err != nil {
			return nil, fmt.Errorf("read the picture of job %s: %w", j.ID, err)
		}
		if n == int64(len(b)) { // half a picture is none
			if e.ScreenBytes = n; r.Screen {
				e.Screen = b
			}
		}
	}
	return e, nil
}

// lastOf reads the last bytes of a file, at most so many; a file that is not there is empty.
func lastOf(file string, most int64) (b []byte, size int64, err error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size = st.Size()
	b = make([]byte, min(size, most))
	n, err := f.ReadAt(b, size-int64(len(b)))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], size, err
}
