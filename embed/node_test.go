package embed

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// childNode turns the test binary into a node of a cluster, run as deploy/nats says.
const childNode = "LEEWARD_TEST_EMBED_NODE"

func node() {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := RunNode(context.Background(), "node.conf", log); err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// cluster is three nodes, each a process, from the configuration in deploy/nats.
type cluster struct {
	t     *testing.T
	dir   string
	env   [3][]string
	urls  [3]string
	nodes [3]*exec.Cmd
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir()}
	cert, key := certificate(t, time.Now().Add(time.Hour))
	for from, to := range map[string]string{cert: "cert.pem", key: "key.pem", filepath.Join("..", "deploy", "nats", "node.conf"): "node.conf"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.dir, to), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if to == "cert.pem" {
			if err := os.WriteFile(filepath.Join(c.dir, "ca.pem"), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	ports := streamstest.Addresses(t, 6)
	for i := range c.nodes {
		c.urls[i] = "tls://" + ports[i]
		c.env[i] = []string{
			fmt.Sprintf("LEEWARD_NODE=n%d", i+1), "LEEWARD_LISTEN=" + ports[i], "LEEWARD_CLUSTER=" + ports[3+i],
			"LEEWARD_STORE=" + filepath.Join(c.dir, fmt.Sprint("store", i+1)), childNode + "=1",
		}
		for k := range c.nodes {
			c.env[i] = append(c.env[i], fmt.Sprintf("LEEWARD_ROUTE_%d=tls://%s", k+1, ports[3+k]))
		}
	}
	if err := WriteCluster(c.dir, strings.Join(c.urls[:], ","), filepath.Join(c.dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		c.start(i)
		t.Cleanup(func() { c.kill(i) })
	}
	return c
}

func (c *cluster) start(i int) {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Dir, cmd.Env, cmd.Stderr = c.dir, append(os.Environ(), c.env[i]...), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.nodes[i] = cmd
}

func (c *cluster) kill(i int) {
	if cmd := c.nodes[i]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		c.nodes[i] = nil
	}
}

func (c *cluster) connect(r Role) *bus.Bus {
	c.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		b, err := bus.Connect(within(c.t), bus.Options{Context: filepath.Join(c.dir, "contexts", string(r)+".json")})
		if err == nil {
			c.t.Cleanup(b.Close)
			return b
		}
		if time.Now().After(end) {
			c.t.Fatal(err)
		}
	}
}

// insist does f until it succeeds.
func insist(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	began := time.Now()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := f(within(t))
		if err == nil {
			t.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// The configuration that we ship makes a cluster that speaks TLS only, whose
// streams go from one copy to three and never back, that goes on when a node is
// killed, and that knows the roles.
func TestClusterFromDeploy(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	op := c.connect(Admin)
	if name := op.Conn.ConnectedClusterName(); name != "leeward" {
		t.Fatalf("connected to cluster %q", name)
	}
	ensure := func(n int) {
		t.Helper()
		insist(t, fmt.Sprint("make the streams with copies: ", n), func(ctx context.Context) error {
			return streams.Ensure(ctx, op.JS, streams.Config{Replicas: n, ChangesBytes: 1 << 30})
		})
	}
	ensure(1)
	ensure(3)
	ls := op.JS.ListStreams(within(t))
	for i := range ls.Info() {
		if i.Config.Replicas != 3 {
			t.Errorf("stream %s has %d copies", i.Config.Name, i.Config.Replicas)
		}
	}
	if ls.Err() != nil {
		t.Fatal(ls.Err())
	}
	agent := c.connect(Agent)
	publish := func(n int) {
		t.Helper()
		insist(t, fmt.Sprint("publish ", n), func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			_, err := agent.JS.Publish(ctx, streams.ChangesSubject("m", "d"), []byte("x"), jetstream.WithMsgID(fmt.Sprint(n)))
			return err
		})
	}
	publish(1)
	if err := agent.JS.DeleteStream(shortly(t), streams.Changes); err == nil {
		t.Error("an agent deletes a stream")
	}
	for i, url := range c.urls {
		plain := strings.Replace(url, "tls://", "nats://", 1)
		if b, err := bus.Connect(within(t), bus.Options{URL: plain, CredsFile: filepath.Join(c.dir, "trust", "users", string(Admin)+".creds")}); err == nil {
			b.Close()
			t.Errorf("node %d speaks without TLS", i+1)
		}
	}
	if os.Getenv("LEEWARD_FULL") == "" {
		return // what follows waits for an election; bench fleet does it, too
	}
	leader := -1
	st, err := op.JS.Stream(within(t), streams.Changes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(st.CachedInfo().Cluster.Leader, "n%d", &leader); err != nil {
		t.Fatalf("leader %q: %v", st.CachedInfo().Cluster.Leader, err)
	}
	c.kill(leader - 1)
	publish(2)
	c.start(leader - 1)
	insist(t, "every copy to be current again", func(ctx context.Context) error {
		st, err := op.JS.Stream(ctx, streams.Changes)
		if err != nil {
			return err
		}
		i := st.CachedInfo()
		if i.State.Msgs != 2 {
			return fmt.Errorf("%d messages", i.State.Msgs)
		}
		for _, r := range i.Cluster.Replicas {
			if !r.Current || r.Offline {
				return fmt.Errorf("%s is not current", r.Name)
			}
		}
		return nil
	})
	ensure(1) // takes no copy away
	if st, err = op.JS.Stream(within(t), streams.Changes); err != nil || st.CachedInfo().Config.Replicas != 3 {
		t.Errorf("after a call for one copy: %v", err)
	}
}

func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	t.Cleanup(cancel)
	return ctx
}
