package failover

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// files keeps jobs below a directory.
type files struct{ dir string }

const (
	jobFile     = "job.json"
	resultFile  = "result.json"
	runDir      = "run"
	historyFile = "history.jsonl"
	maxHistory  = 1000 // lines kept
	maxJobFile  = 1 << 20
)

func (f files) job(id string) string { return filepath.Join(f.dir, id) }
func (f files) run(id string) string { return filepath.Join(f.dir, id, runDir) }

// save replaces job.json so that a crash leaves the old or the new one.
func (f files) save(j *Job) error {
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("encode job %s: %w", j.ID, err)
	}
	if err := os.MkdirAll(f.job(j.ID), 0o700); err != nil {
		return fmt.Errorf("save job: %w", err)
	}
	if j.Result != nil && j.State.Waiting() {
		if err := f.result(j); err != nil {
			return err
		}
	}
	return Replace(filepath.Join(f.job(j.ID), jobFile), append(b, '\n'))
}

func (f files) result(j *Job) error {
	b, err := json.MarshalIndent(j.Result, "", "  ")
	if err != nil {
		return fmt.Errorf("encode result of job %s: %w", j.ID, err)
	}
	return Replace(filepath.Join(f.job(j.ID), resultFile), append(b, '\n'))
}

// Replace writes a file so that a crash leaves the old or the new one.
func Replace(name string, b []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	if _, err = tmp.Write(b); err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// load reads every job that is not cleaned, and the history, oldest first. A
// directory without a readable job.json is what a crash at birth leaves: it is
// reported in damaged and can be removed by cleaning up its id.
func (f files) load() (jobs, history []Job, damaged []string, err error) {
	if history, err = f.history(); err != nil {
		return nil, nil, nil, err
	}
	past := map[string]bool{}
	for _, j := range history {
		past[j.ID] = true
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the jobs: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if past[e.Name()] { // killed between the line of history and the removal
			if err := os.RemoveAll(f.job(e.Name())); err != nil {
				return nil, nil, nil, fmt.Errorf("remove cleaned job: %w", err)
			}
			continue
		}
		j, err := f.read(e.Name())
		if err != nil {
			damaged = append(damaged, e.Name())
			continue
		}
		jobs = append(jobs, *j)
	}
	return jobs, history, damaged, nil
}

func (f files) read(id string) (*Job, error) {
	name := filepath.Join(f.job(id), jobFile)
	if st, err := os.Stat(name); err != nil || st.Size() > maxJobFile {
		return nil, fmt.Errorf("job %s has no usable %s", id, jobFile)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read job %s: %w", id, err)
	}
	j := new(Job)
	if err := json.Unmarshal(b, j); err != nil {
		return nil, fmt.Errorf("job %s: %s is damaged: %w", id, name, err)
	}
	if _, err := Step(j.State, Restart); err != nil || j.State == Cleaned || j.ID != id {
		return nil, fmt.Errorf("job %s: %s is damaged", id, name)
	}
	return j, nil
}

// history reads the lines of history; a line torn by a crash is skipped. A file
// that has grown far beyond maxHistory is cut back.
func (f files) history() ([]Job, error) {
	name := filepath.Join(f.dir, historyFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history of jobs: %w", err)
	}
	var all []Job
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, maxJobFile)
	for sc.Scan() {
		var j Job
		if json.Unmarshal(sc.Bytes(), &j) == nil && j.ID != "" {
			all = append(all, j)
		}
	}
	if len(all) <= 2*maxHistory {
		return all, nil
	}
	all = all[len(all)-maxHistory:]
	var out bytes.Buffer
	for _, j := range all {
		line, err := json.Marshal(j)
		if err != nil {
			return nil, fmt.Errorf("encode history: %w", err)
		}
		out.Write(append(line, '\n'))
	}
	return all, Replace(name, out.Bytes())
}

// clean writes the job's line of history, then removes its directory.
func (f files) clean(j Job) error {
	if err := f.past(j); err != nil {
		return err
	}
	if err := os.RemoveAll(f.job(j.ID)); err != nil {
		return fmt.Errorf("remove job %s: %w", j.ID, err)
	}
	return nil
}

// past writes a job's line of history.
func (f files) past(j Job) error {
	line, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("encode history: %w", err)
	}
	h, err := os.OpenFile(filepath.Join(f.dir, historyFile), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write the history of jobs: %w", err)
	}
	// A torn last line must not swallow this one.
	if st, e := h.Stat(); e == nil && st.Size() > 0 {
		last := make([]byte, 1)
		if _, e := h.ReadAt(last, st.Size()-1); e == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	_, err = h.Write(append(line, '\n'))
	if err == nil {
		err = h.Sync()
	}
	if e := h.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write the history of jobs: %w", err)
	}
	return nil
}
