package failover

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever a crash or a hand left in the jobs' directory: the engine starts, and
// every job can be cleaned up.
func FuzzJobFiles(f *testing.F) {
	f.Add([]byte(`{"id":"tf-1","state":"alive","revision":3}`), []byte(`{"id":"tf-0","state":"cleaned"}`+"\n"))
	f.Add([]byte(`{"id":"tf-2","state":"alive"}`), []byte("\n\n{"))
	f.Add([]byte(`{"id":"tf-1","state":"tea","stages":[{}]}`), []byte(`{"id":"tf-1"}`))
	f.Add([]byte(`{"id":"tf-1","state":"cleaned"}`), []byte(nil))
	f.Add([]byte(`[1]`), []byte(`null`))
	f.Add([]byte{}, []byte{0})
	f.Fuzz(func(t *testing.T, job, history []byte) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "tf-1"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"tf-1/" + jobFile: job, historyFile: history} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		e, err := New(Config{Dir: dir})
		if err != nil {
			t.Fatalf("the engine does not start: %v", err)
		}
		for _, j := range e.Jobs() {
			if j.State == Cleaned {
				continue
			}
			if _, err := e.Job(j.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := e.Cleanup(t.Context(), j.ID); err != nil {
				t.Fatalf("cleanup of %q: %v", j.ID, err)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "tf-1")); !os.IsNotExist(err) {
			t.Errorf("something is left of the job: %v", err)
		}
		if err := e.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
