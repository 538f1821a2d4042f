package failover

import (
	"cmp"
	"fmt"
	"time"
)

// Recall adds to the history the jobs that the engine does not know, and returns how
// many those were: what a copy of the history holds that was kept elsewhere. A job
// that was not cleaned up there is: whatever it left is not known here.
func (e *Engine) Recall(jobs []Job) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := map[string]bool{}
	for _, j := range e.past {
		known[j.ID] = true
	}
	added := 0
	for _, j := range jobs {
		if known[j.ID] || e.jobs[j.ID] != nil || j.ID == "" {
			continue
		}
		if j.State != Cleaned {
			j.Error = cmp.Or(j.Error, fmt.Sprintf("control lost its directory while the job was %s: look for what it left", j.State))
			j.Stages = append(j.Stages, Stage{State: Cleaned, At: time.Now().UTC(), Detail: "its directory was lost"})
			j.State = Cleaned
		}
		if err := e.files.past(j); err != nil {
			return added, err
		}
		e.past = append(e.past, j)
		known[j.ID] = true
		added++
	}
	return added, nil
}
