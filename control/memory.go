package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/book"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/streams"
)

// Kinds of records beside those of the book.
const (
	kindJob   = "job"
	kindFence = "fence" // of a machine; what stands in the bucket of fences
)

const (
	// rememberAfter is how long a document rests before it is written to the vault: the
	// steps of a run of a plan follow each other quickly, and only some need be kept.
	rememberAfter = 2 * time.Second
	// rememberEvery is when everything is compared again, also if nothing was heard.
	rememberEvery = time.Minute
	keepVersions  = 16 // of a record in the vault
)

// memory keeps in the vault what nothing else could rebuild if control's directory and
// the whole bus were lost: what operators decided, the states of machines that were
// failed over, and the history of jobs. The book and control's files are what counts;
// the vault is asked only for what they have never had.
type memory struct {
	mu    sync.Mutex              // one comparison at a time
	known map[recordID]remembered // mu guards
	wake  chan struct{}
}

type recordID struct{ kind, name string }

// remembered is the newest version of a record.
type remembered struct {
	version uint64
	gone    bool
	sum     [sha256.Size]byte // of the value
}

func newMemory() *memory {
	return &memory{known: map[recordID]remembered{}, wake: make(chan struct{}, 1)}
}

// due makes the next comparison come soon.
func (m *memory) due() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// missing returns what is to be written to the vault so that it has docs.
func (m *memory) missing(docs []vault.Record) []vault.Record {
	var out []vault.Record
	for _, d := range docs {
		was, ok := m.known[recordID{d.Kind, d.Name}]
		if d.Gone && (!ok || was.gone) || ok && !d.Gone && !was.gone && was.sum == sha256.Sum256(d.Value) {
			continue
		}
		d.Version = was.version + 1
		out = append(out, d)
	}
	return out
}

// note remembers that the vault has a record.
func (m *memory) note(r *vault.Record) {
	m.known[recordID{r.Kind, r.Name}] = remembered{r.Version, r.Gone, sha256.Sum256(r.Value)}
}

// recall reads the records of the vault and gives back to the book and to the engine
// what they have never had: after a loss that is everything.
func (s *Service) recall(ctx context.Context) error {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	records, bad, err := s.vault.Records(ctx)
	if err != nil {
		return fmt.Errorf("read what the vault keeps for control: %w", err)
	}
	for _, err := range bad {
		s.log.Error("a record of control is damaged, run leeward vault check", "err", err)
	}
	docs, err := s.book.All(ctx)
	if err != nil {
		return err
	}
	here := map[recordID]bool{}
	for _, d := range docs {
		here[recordID{string(d.Kind), d.Name}] = true
	}
	fences, err := s.fenceRecords(ctx)
	if err != nil {
		return err
	}
	for _, f := range fences {
		here[recordID{f.Kind, f.Name}] = true
	}
	var jobs []failover.Job
	restored := 0
	for i := range records {
		r := &records[i]
		s.memory.note(r)
		switch {
		case r.Gone:
		case r.Kind == kindJob:
			var j failover.Job
			if err := json.Unmarshal(r.Value, &j); err != nil || j.ID != r.Name {
				s.log.Error("the vault's record of a job is unreadable", "job", r.Name, "err", err)
				continue
			}
			jobs = append(jobs, j)
		case r.Kind == kindFence && !here[recordID{r.Kind, r.Name}]:
			f, err := streams.DecodeFence(r.Name, r.Value)
			if err == nil {
				err = s.lives.setFence(ctx, *f)
			}
			if err != nil {
				return fmt.Errorf("put the fence of machine %s up again: %w", r.Name, err)
			}
			restored++
		case r.Kind != kindFence && !here[recordID{r.Kind, r.Name}]:
			value, err := recalled(r)
			if err == nil {
				err = s.book.Restore(ctx, book.Raw{Kind: book.Kind(r.Kind), Name: r.Name, By: r.By, Value: value})
			}
			if err != nil && !errors.Is(err, book.ErrChanged) {
				return err
			}
			restored++
		}
	}
	told, err := s.engine.Recall(jobs)
	if err != nil {
		return err
	}
	if restored+told > 0 {
		s.log.Warn("control had lost documents, and has them back from the vault", "documents", restored, "jobs", told)
	}
	return nil
}

// recalled is a document as the book gets it back. A run of a plan that was on its way
// is not: the vault's version may be behind what was done, and doing a step twice is
// for people to decide.
func recalled(r *vault.Record) ([]byte, error) {
	if r.Kind != string(book.Run) {
		return r.Value, nil
	}
	var run plan.Run
	if err := json.Unmarshal(r.Value, &run); err != nil {
		return nil, fmt.Errorf("the vault's record of run %s is unreadable: %w", r.Name, err)
	}
	if run.Over() {
		return r.Value, nil
	}
	run.Error = fmt.Sprintf("control lost its state while the run was %s: look at what it did", run.State)
	run.State, run.Ended = plan.RunFailed, time.Now().UTC()
	return json.Marshal(&run)
}

// remember writes to the vault what changes, until control stops.
func (s *Service) remember() {
	told := ""
	for {
		ctx, cancel := context.WithTimeout(s.base, rememberEvery)
		err := s.rememberOnce(ctx)
		cancel()
		switch {
		case s.base.Err() != nil:
			return
		case err == nil && told != "":
			s.log.Info("the vault keeps control's documents again")
			told = ""
		case err != nil && err.Error() != told:
			told = err.Error()
			s.log.Error("the vault does not keep control's documents: were the bus lost now, so would be the last changes; trying again", "err", err)
		}
		timer := time.NewTimer(rememberEvery)
		select {
		case <-s.base.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.memory.wake:
			timer.Stop()
			if !s.sleep(rememberAfter) {
				return
			}
			select { // this comparison is for those too that came meanwhile
			case <-s.memory.wake:
			default:
			}
		}
	}
}

func (s *Service) rememberOnce(ctx context.Context) error {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	docs, err := s.documents(ctx)
	if err != nil {
		return err
	}
	for _, r := range s.memory.missing(docs) {
		r.Time = time.Now().UTC()
		err := s.vault.PutRecord(ctx, &r)
		if errors.Is(err, vault.ErrExists) { // another control was here; or the answer to an earlier try was lost
			return s.reread(ctx)
		}
		if err != nil {
			return err
		}
		s.memory.note(&r)
	}
	return nil
}

// reread looks at what the vault has, for the next comparison.
func (s *Service) reread(ctx context.Context) error {
	records, _, err := s.vault.Records(ctx)
	for i := range records {
		s.memory.note(&records[i])
	}
	s.memory.due()
	return err
}

// documents is all that the vault is to keep.
func (s *Service) documents(ctx context.Context) ([]vault.Record, error) {
	docs, err := s.book.All(ctx)
	if err != nil {
		return nil, err
	}
	var all []vault.Record
	for _, d := range docs {
		if len(d.Value) > vault.MaxRecord {
			s.log.Error("a document is too large for the vault", "kind", d.Kind, "name", d.Name, "bytes", len(d.Value))
			continue
		}
		all = append(all, vault.Record{Kind: string(d.Kind), Name: d.Name, By: d.By, Gone: d.Gone, Value: d.Value})
	}
	fences, err := s.fenceRecords(ctx)
	if err != nil {
		return nil, err
	}
	all = append(all, fences...)
	for _, j := range s.engine.Jobs() {
		if j.State.Running() {
			continue
		}
		b, err := json.Marshal(j.History())
		if err != nil {
			return nil, fmt.Errorf("write job %s: %w", j.ID, err)
		}
		all = append(all, vault.Record{Kind: kindJob, Name: j.ID, Value: bytes.Clone(b)})
	}
	return all, nil
}

// fenceRecords are the fences that stand, and those that were taken away.
func (s *Service) fenceRecords(ctx context.Context) ([]vault.Record, error) {
	kv, err := s.bus.JS.KeyValue(ctx, streams.Fences)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", streams.Fences, err)
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("read bucket %s: %w", streams.Fences, err)
	}
	defer func() { _ = w.Stop() }() // the end of ctx may have stopped it already
	var all []vault.Record
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("read bucket %s: the watch ended", streams.Fences)
			}
			if e == nil { // that was all
				return all, nil
			}
			r := vault.Record{Kind: kindFence, Name: e.Key(), Gone: e.Operation() != jetstream.KeyValuePut}
			if !r.Gone {
				r.Value = e.Value()
			}
			all = append(all, r)
		case <-ctx.Done():
			return nil, fmt.Errorf("read bucket %s: %w", streams.Fences, ctx.Err())
		}
	}
}
