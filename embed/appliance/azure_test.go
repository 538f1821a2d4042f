package appliance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	source "github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/consumers/process"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
	"github.com/leeward-dr/leeward/control/target/fixup"
	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/control/vaulttest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// awayTime is for a step of this way: many times what it takes when nothing else runs.
const awayTime = 3 * time.Minute

// stampAt is the block that a failover changes on the machine's disk.
const stampAt = 5 * 4096

// stamper is a fix-up without a helper: it puts a stamp on the first disk, and takes it back.
type stamper struct {
	mu       sync.Mutex
	was      []byte // what was there
	instance string // what the agent in the machine was told
}

func (*stamper) CanFit(*target.Machine) error { return nil }

func (s *stamper) Fit(_ context.Context, m *target.Machine, spec fixup.Spec, dir string) (*fixup.Fitted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	base := m.Disks[0].(target.Restorer)
	file := filepath.Join(dir, "stamp.overlay")
	_, err := os.Stat(file)
	f := &fixup.Fitted{Fresh: err != nil}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	o, err := overlay.Open(base, file)
	if err != nil {
		return nil, err
	}
	f.Close = o.Close
	stamp := bytes.Repeat([]byte("stamp"), 4096)[:4096]
	switch {
	case spec.Do == fixup.Undo:
		f.Changes, stamp = []string{"the stamp"}, s.was
	case spec.Agent == nil:
		return nil, errors.Join(errors.New("the agent in the machine is told nothing"), o.Close())
	default:
		s.was, s.instance = make([]byte, 4096), spec.Agent.Instance
		if _, err := base.ReadAt(s.was, stampAt); err != nil {
			return nil, err
		}
		f.Changes = []string{"leeward-agent goes on as " + s.instance + " (a stamp)"}
	}
	if _, err := o.WriteAt(stamp, stampAt); err != nil {
		return nil, err
	}
	f.Disks = []target.Restorer{overlay.Apply(base, o)}
	return f, o.Flush()
}

// away is a site with a machine that is failed over to a cloud of the test.
type away struct {
	*testing.T
	server *streamstest.Server
	vault  *vaulttest.Vault
	cloud  *armtest.Cloud
	fix    *stamper

	mu      sync.Mutex
	n       int           // processes of control so far; the cloud hears the newest only
	dies    string        // the request after which control is killed
	died    chan struct{} // closed then
	fetched int64         // bytes that came home from the vault
	sent    int64         // bytes of changes on the stream

	dir  string // of control
	s    *control.Service
	b    *bus.Bus      // of control
	far  *runningAgent // the agent in the machine in the cloud
	disk string        // what that machine's disk holds
}

// mortal is the way of process n to the cloud.
type mortal struct {
	a *away
	n int
}

// deadError is what a process gets that was killed.
type deadError struct{ error }

// NonRetriable keeps the SDK from trying again.
func (deadError) NonRetriable() {}

func (m mortal) Do(req *http.Request) (*http.Response, error) {
	a := m.a
	a.mu.Lock()
	dead, kill := m.n != a.n, a.dies != "" && strings.Contains(req.Method+" "+req.URL.Path, a.dies)
	if kill && !dead {
		// What the process does from now on has never been.
		a.n, a.dies = a.n+1, ""
		next := fmt.Sprintf("%s-%d", a.dir, a.n)
		err := os.CopyFS(next, os.DirFS(a.dir))
		for n := 0; err != nil && n < 100; n++ { // it may be replacing a file just now
			if err = os.RemoveAll(next); err == nil {
				err = os.CopyFS(next, os.DirFS(a.dir))
			}
		}
		if err != nil {
			a.Errorf("keep what a process that dies has on its disk: %v", err)
		}
		a.dir = next
		defer close(a.died)
	}
	a.mu.Unlock()
	if dead {
		return nil, deadError{errors.New("this process is dead")}
	}
	resp, err := a.cloud.Do(req)
	if kill && err == nil {
		resp.Body.Close()
		return nil, deadError{errors.New("it was killed before it heard")}
	}
	return resp, err
}

// homeCounter is a slog.Handler: it counts what comes home.
type homeCounter struct {
	slog.Handler
	a *away
}

func (c homeCounter) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "disk is as at a point" {
		r.Attrs(func(x slog.Attr) bool {
			if x.Key == "fetched" {
				c.a.mu.Lock()
				c.a.fetched += x.Value.Int64()
				c.a.mu.Unlock()
			}
			return true
		})
	}
	return c.Handler.Handle(ctx, r)
}

func (c homeCounter) WithAttrs(all []slog.Attr) slog.Handler {
	return homeCounter{c.Handler.WithAttrs(all), c.a}
}

func (a *away) log() *slog.Logger {
	return slog.New(homeCounter{slog.NewTextHandler(a.Output(), nil), a})
}

// up starts control; down stops it, in good order or because it was killed.
func (a *away) up() {
	a.Helper()
	a.b = a.server.Connect("control")
	cfg := control.Default()
	a.mu.Lock()
	cfg.Dir = a.dir
	cfg.Azure.Config = azure.Config{
		Place: azure.Place{Subscription: armtest.Subscription, ResourceGroup: armtest.Group, Region: armtest.Region, Subnet: armtest.Subnet, AgentServer: "tls://bus.example:4222"},
		Fixer: a.fix,
	}.Tune(azure.Tuning{Transport: mortal{a, a.n}, Credential: armtest.Credential(), Pause: time.Millisecond})
	a.mu.Unlock()
	cfg.TidyEvery, cfg.Keeper.Bus = 0, "not used by a machine in the cloud"
	s, err := control.New(cfg, a.b, a.vault.Vault, a.log())
	if err == nil {
		err = s.Start(a.Context())
	}
	if err != nil {
		a.Fatal(err)
	}
	a.s = s
	select {
	case <-s.Ready():
	case <-time.After(awayTime):
		a.Fatal("control does not get ready")
	}
}

func (a *away) down(killed bool) {
	a.Helper()
	if a.s == nil {
		return
	}
	if killed {
		a.b.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), awayTime)
	defer cancel()
	if err := a.s.Stop(ctx); err != nil && !killed {
		a.Error(err)
	}
	a.b.Close()
	a.s = nil
}

// ask asks for a step and waits until the machine is where that leads. If control is killed
// meanwhile it is started again.
func (a *away) ask(kind life.Kind, r api.LifeRequest, want life.Phase) {
	a.Helper()
	ctx, cancel := context.WithTimeout(api.WithActor(a.Context(), api.Actor{Name: "ann"}), awayTime)
	defer cancel()
	r.Machine, r.Confirm = "web", "web"
	if _, err := a.s.AskLife(ctx, kind, r); err != nil {
		a.Fatalf("%s: %v", kind, err)
	}
	for {
		a.mu.Lock()
		died := a.died
		a.mu.Unlock()
		select {
		case <-died:
			a.mu.Lock()
			a.died = make(chan struct{})
			a.mu.Unlock()
			a.Log("control was killed")
			a.down(true)
			a.up()
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			a.Fatalf("%s does not lead to %s in time", kind, want)
		}
		l, err := a.s.Life(ctx, "web")
		if err != nil {
			a.Fatal(err)
		}
		if l.Phase == want {
			return
		}
		if !l.Phase.Working() {
			a.Fatalf("%s led to %s: %s", kind, l.Phase, l.Error)
		}
	}
}

// kill kills control after the next request like this.
func (a *away) kill(request string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dies = request
}

// runningAgent is an agent over a disk that is a file.
type runningAgent struct {
	state string
	stop  func()
}

// agent runs one until it is stopped; instance is that of a copy.
func (a *away) agent(disk, instance string) *runningAgent {
	a.Helper()
	b := a.server.Connect("agent " + instance)
	cfg := source.Default()
	cfg.Machine, cfg.Disks, cfg.StateDir = "web", []source.DiskConfig{{Path: disk, Name: "sda"}}, a.TempDir()
	cfg.Capture, cfg.Interval, cfg.Instance = "scan", 200*time.Millisecond, instance
	var x *source.Agent
	var err error
	a.until("the agent holds its disk", func() bool {
		x, err = source.New(a.Context(), cfg, b, slog.New(slog.NewTextHandler(a.Output(), nil)))
		return err == nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := x.Run(ctx); err != nil {
			a.Errorf("agent %q ended: %v", instance, err)
		}
	}()
	r := &runningAgent{cfg.StateDir, sync.OnceFunc(func() {
		cancel()
		<-done
		x.Close()
		b.Close()
	})}
	a.Cleanup(r.stop)
	return r
}

func (a *away) until(what string, ok func() bool) {
	a.Helper()
	for end := time.Now().Add(awayTime); !ok(); pause(a.T) {
		if time.Now().After(end) {
			a.Fatalf("not in time: %s", what)
		}
	}
}

// quiet waits until an agent knows that it may not write.
func (a *away) quiet(r *runningAgent) {
	a.Helper()
	a.until("the agent is quiet", func() bool {
		st, _, err := source.ReadStatus(r.state)
		return err == nil && st.Fenced != ""
	})
}

// point waits for one that was cut after now, and returns who had opened the epoch.
func (a *away) point() (by string) {
	a.Helper()
	now := time.Now()
	a.until("a point of what the disk holds", func() bool {
		all, _, err := a.vault.Points(a.Context(), "")
		if err != nil {
			a.Fatal(err)
		}
		for _, p := range all {
			if p.Time.After(now) {
				o, err := a.vault.Opened(a.Context(), vault.DiskID{Machine: "web", Disk: "sda"}, p.Machines[0].Disks[0].At.Epoch)
				if err != nil {
					a.Fatal(err)
				}
				by = o.Instance
				return true
			}
		}
		return false
	})
	return by
}

func write(t testing.TB, disk string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(data, at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// boots is what happens in the cloud when the machine is turned on or off: its agent starts,
// or dies and leaves what the machine wrote last to its disk.
func (a *away) boots(_ string, on bool) {
	if on {
		a.far = a.agent(a.disk, a.fix.instance)
		return
	}
	a.far.stop()
	write(a, a.disk, 9<<20, noise(9, 64<<10)) // what its agent never saw
	b, err := os.ReadFile(a.disk)
	if err != nil {
		a.Error(err)
	}
	a.cloud.Fill(a, a.cloud.Disks()[0], append(b, a.cloud.Download(a, a.cloud.Disks()[0])[len(b):]...))
}

// A machine runs in a cloud, is protected there by its own agent, and comes home to the disk
// that it came from by what changed, with control killed on the way; nobody writes who may not.
func TestHomeFromAzure(t *testing.T) {
	t.Parallel()
	const size, data = 24 << 20, 12 << 20
	s := azuritetest.Start(t)
	a := &away{T: t, server: streamstest.StartWith(t, t.TempDir()), vault: vaulttest.New(t), fix: new(stamper), died: make(chan struct{}), dir: filepath.Join(t.TempDir(), "control")}
	a.cloud = armtest.New(t, s.Endpoint, azuritetest.Account, azuritetest.Key)
	a.cloud.OnPower(a.boots)
	worker, err := process.New(a.server.Bus(), a.vault.Vault, process.Default(), process.Options{Partitions: []int{streams.Partition("web", "sda")}})
	if err == nil {
		err = worker.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Stop(context.Background())
	events := a.listen(streams.EventsSubject("web", "copy-quiet"), func(*nats.Msg) {})
	a.listen(streams.ChangesSubject("web", "sda"), func(m *nats.Msg) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.sent += int64(len(m.Data))
	})
	home := filepath.Join(t.TempDir(), "sda")
	if err := os.WriteFile(home, append(noise(1, data), make([]byte, size-data)...), 0o600); err != nil {
		t.Fatal(err)
	}
	a.up()
	defer func() { a.down(false) }()
	old := a.agent(home, "")
	a.point()

	r := api.LifeRequest{}
	r.Target, r.Options = failover.Cloud, failover.Options{Serial: "booted", CPUs: 2, MemoryBytes: 4 << 30, Firmware: "bios"}
	v, err := a.s.ValidateLife(t.Context(), api.LifeRequest{Machine: "web", Order: r.Order})
	if err != nil || !v.Good || !strings.Contains(fmt.Sprint(v.Checks), "tls://bus.example:4222") {
		t.Errorf("%+v, %v", v, err)
	}
	a.ask(life.Start, r, life.FailedOver)
	a.quiet(old)
	write(t, home, 2<<20, noise(2, 64<<10)) // by a zombie

	a.disk = filepath.Join(t.TempDir(), "far")
	if err := os.WriteFile(a.disk, a.cloud.Download(t, a.cloud.Disks()[0])[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	a.far = a.agent(a.disk, a.fix.instance)
	a.quiet(a.far) // it may not write before it is re-protected
	a.mu.Lock()
	a.sent = 0
	a.mu.Unlock()
	write(t, a.disk, 4<<20, noise(3, 1<<20))
	a.ask(life.Commit, r, life.Committed)
	a.ask(life.Reprotect, r, life.Ready)
	write(t, a.disk, 6<<20, noise(4, 1<<20))
	write(t, a.disk, 11<<20, make([]byte, 256<<10))
	if by := a.point(); by != a.fix.instance {
		t.Errorf("points are of instance %q", by)
	}
	old.stop() // the machine at home is off, or runs something that writes its disks

	r.Home = map[string]string{"sda": home}
	a.kill("/deallocate")
	a.ask(life.Failback, r, life.Returned)
	changed := int64(1<<20 + 1<<20 + 64<<10 + 64<<10 + 256<<10)
	a.mu.Lock()
	t.Logf("%d bytes were changed: %d on the stream (%.2f), %d fetched for home (%.2f)", changed, a.sent, float64(a.sent)/float64(changed), a.fetched, float64(a.fetched)/float64(changed))
	if limit := changed + changed/5; a.sent > limit || a.fetched > limit {
		t.Error("more than 1.2 times what was changed")
	}
	a.mu.Unlock()
	a.atHome(home)

	// It is a change of mind: the machine in the cloud goes on, and comes home later.
	a.ask(life.Cancel, r, life.Ready)
	write(t, a.disk, 8<<20, noise(5, 128<<10))
	if by := a.point(); by != a.fix.instance {
		t.Errorf("points are of instance %q", by)
	}
	a.kill("GET /" + azuritetest.Account) // while its disks are read
	a.ask(life.Failback, r, life.Returned)
	a.atHome(home)
	a.ask(life.Commit, r, life.Protected)
	if left := a.cloud.Left(t); len(left) > 0 {
		t.Errorf("left in the cloud: %v", left)
	}
	a.agent(home, "")
	if by := a.point(); by == a.fix.instance || by == "" {
		t.Errorf("at home points are of instance %q", by)
	}
	for n, _, _ := events.Pending(); n > 0; n, _, _ = events.Pending() {
		if _, err := events.NextMsg(time.Second); err != nil {
			t.Fatal(err)
		}
	}
	a.quiet(a.agent(a.disk, a.fix.instance)) // a machine that somebody forgot to remove
	if m, err := events.NextMsg(awayTime); err != nil {
		t.Errorf("nobody hears of it: %v", err)
	} else if e, err := wire.DecodeEvent(m.Data); err != nil || !strings.Contains(e.What, a.fix.instance) {
		t.Errorf("the event says %+v, %v", e, err)
	}
	if by := a.point(); by == a.fix.instance {
		t.Error("a copy writes after the machine has come home")
	}
}

func (a *away) listen(subject string, hear func(*nats.Msg)) *nats.Subscription {
	a.Helper()
	b := a.server.Connect("a test that listens")
	sub, err := b.Conn.SubscribeSync(subject)
	if err == nil && hear != nil {
		_, err = b.Conn.Subscribe(subject, hear)
	}
	if err == nil {
		err = b.Conn.Flush()
	}
	if err != nil {
		a.Fatal(err)
	}
	return sub
}

// atHome compares the disk at home with that of the machine in the cloud, but for the stamp.
func (a *away) atHome(home string) {
	a.Helper()
	want, err := os.ReadFile(a.disk)
	if err != nil {
		a.Fatal(err)
	}
	if !bytes.HasPrefix(want[stampAt:], []byte("stampstamp")) {
		a.Error("there is no stamp on the disk in the cloud: this shows nothing")
	}
	copy(want[stampAt:], a.fix.was)
	got, err := os.ReadFile(home)
	if err != nil {
		a.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(want) {
		for i := range got {
			if got[i] != want[i] {
				a.Errorf("at home the disk is another, from byte %d", i)
				return
			}
		}
	}
}
