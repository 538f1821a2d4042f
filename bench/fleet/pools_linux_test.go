package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/streams"
)

// poolsWord makes this binary lead a machine to another site and home, with options in the
// argument after it.
const poolsWord = "run-pools"

// PoolsOptions of a failover to another site.
type PoolsOptions struct {
	RescueOptions
	Cut   time.Duration // how long the line between the sites is out
	Nodes string        // folder with node.conf
}

// PoolsResult is what was seen.
type PoolsResult struct {
	RescueResult
	Forward  uint64  `json:"forward_links"`      // that the process server at home has taken, until the failover
	Reverse  uint64  `json:"reverse_links"`      // that the one of the pool has taken, until the machine was home
	Strayed  uint64  `json:"strayed_links"`      // that the one at home has taken meanwhile
	Cut      float64 `json:"cut_seconds"`        // the line was out
	Recovery float64 `json:"recovery_seconds"`   // from its end until there was a point that was cut after it
	Placed   bool    `json:"placed"`             // the pool's stream is at its site alone, the others are at home alone
	Again    bool    `json:"protected_again"`    // at home, through the process server there
	Points   int     `json:"points_while_there"` // of what the machine wrote at the other site
}

// poolName is both the pool's and the name of its site's cluster.
const poolName = "west"

// pooled is a trial of two sites: NATS nodes and a process server at home; one node, the
// control that brings machines up, and the pool's process server near it.
type pooled struct {
	homing
	o      PoolsOptions
	res    *PoolsResult
	west   *host
	stores map[string]string // directories of the nodes' streams
	home   string            // id of the process server at home
	before map[string]uint64 // links that process servers had taken when the machine went away
}

// writing says "k" on its serial line, and from then on writes pieces of 32 KiB into 16 MiB
// of its disk, one for each tick of its clock, never the same bytes again:
//
//	start:	ax, ds, es, ss = 0; sp = 0x7c00; [drive] = dl
//		out 0x3f8, 'k'; out 0x3f8, '\n'; cld; bp = 0
//	next:	inc bp; es:0x8000… (32 KiB) = bp in each word
//		[dap+8] = 16384 + (bp & 511) * 64	; sector
//		int 0x13, ax = 0x4300, si = dap, dl = [drive]
//		sti; hlt; jmp next
//	dap:	16, 64 sectors, 0:0x8000, sector
//	drive:	0
//
// The bytes are those of an assembler.
const writing = "\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c\x88\x16\x54\x7c\xba\xf8\x03\xb0\x6b\xee\xb0\x0a\xee\xfc\x31\xed" +
	"\x45\x89\xe8\xbf\x00\x80\xb9\x00\x40\xf3\xab\x89\xe8\x25\xff\x01\xc1\xe0\x06\x05\x00\x40\xa3\x4c\x7c\xbe\x44\x7c\x8a\x16\x54\x7c" +
	"\xb8\x00\x43\xcd\x13\xfb\xf4\xeb\xd7" +
	"\x10\x00\x40\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// written is how much of its disk the machine writes.
const written = 16 << 20

// A machine that is protected at home is failed over to another site, re-protected there by
// the process servers of that site's pool, and comes home by what differs; while it is away
// the line between the sites is cut. All of it is done by the programs themselves, over TLS,
// with NATS clusters that are joined as docs/ops/pools.md says.
func TestPoolsHome(t *testing.T) {
	if os.Getenv("LEEWARD_FULL") == "" {
		t.Skip("SKIPPED: minutes long: LEEWARD_FULL=1 leads a machine to another site and home through a pool of process servers")
	}
	if m, ok := rig.Have("ip", "nsenter", "qemu-system-x86_64", "losetup"); !ok || !rig.Root() {
		t.Fatalf("it needs root and %s", m)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	bin, err := product.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(PoolsOptions{
		RescueOptions: RescueOptions{Size: 256 << 20, Fill: 0.5, Share: 0.02, Seed: 11, Limit: 3 * time.Minute, Bin: bin, Dir: t.TempDir()},
		Cut:           15 * time.Second, Nodes: filepath.Join("..", "..", "deploy", "nats"),
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, os.Args[0], poolsWord, string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it cleans up
	cmd.WaitDelay = time.Minute
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	var r PoolsResult
	if err = errors.Join(err, json.Unmarshal(out, &r)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r.Skipped != "" || !r.Equal || !r.Placed || !r.Again {
		t.Errorf("it did not come home as promised: %s", out)
	}
	if r.Forward == 0 || r.Reverse == 0 || r.Strayed != 0 {
		t.Errorf("changes were not handled by the process servers that are near them: %s", out)
	}
	// What differs crosses, and what the machine wrote.
	if r.Crossed > r.Differ*12/10+written {
		t.Errorf("it did not come home by what differs: %s", out)
	}
	t.Logf("%s", out)
}

// Pools leads a machine to another site and home.
func Pools(ctx context.Context, o PoolsOptions) (res *PoolsResult, err error) {
	if why := missing(); why != "" {
		return &PoolsResult{RescueResult: RescueResult{Skipped: why}}, nil
	}
	began := time.Now()
	r, err := rig.New(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := r.Close(); e != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", e))
		}
	}()
	r.Keep = o.Keep
	t := &pooled{o: o, res: &PoolsResult{RescueResult: RescueResult{Disk: o.Size}}, stores: map[string]string{}, before: map[string]uint64{}}
	t.homing = homing{
		o: o.RescueOptions, rig: r, rnd: rand.New(rand.NewPCG(o.Seed, 43)), res: &t.res.RescueResult,
		boot: []byte(writing), dir: filepath.Join(r.Dir, "site"),
	}
	for _, do := range []func(context.Context) error{
		t.nodes, t.servers, t.protect, t.forward, t.away, t.lineOut, t.differ, t.homing.home, t.compare, t.reversed, t.again,
	} {
		step, cancel := context.WithTimeout(ctx, o.Limit)
		err := do(step)
		cancel()
		if err != nil {
			t.words()
			return nil, err
		}
	}
	t.res.Seconds = time.Since(began).Seconds()
	return t.res, nil
}

// words says how the programs ended, for whoever must find out why.
func (t *pooled) words() {
	logs, _ := filepath.Glob(filepath.Join(t.rig.Dir, "*.log")) // the pattern is good
	for _, name := range logs {
		if b, err := os.ReadFile(name); err == nil {
			t.o.Say("%s: …%s", filepath.Base(name), b[max(0, len(b)-3000):])
		}
	}
}

// line is the way between the sites, as seen from home.
const line = "line0"

// nodes makes both sites, and starts three NATS nodes at home and one at the other.
func (t *pooled) nodes(ctx context.Context) (err error) {
	if t.net, err = newNetwork(ctx, t.rig); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"ip", "link", "add", "br1", "type", "bridge"}, {"ip", "link", "set", "br1", "up"},
		{"ip", "link", "add", line, "type", "veth", "peer", "name", "line1"},
		{"ip", "link", "set", line, "master", "br0", "up"}, {"ip", "link", "set", "line1", "master", "br1", "up"},
	} {
		if _, err := rig.Run(ctx, argv...); err != nil {
			return fmt.Errorf("join the sites: %w", err)
		}
	}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	hosts, addrs, gates, urls := map[string][]*host{}, []string{}, map[string][]string{}, []string{}
	for site, n := range map[string]int{"home": 3, poolName: 1} {
		for i := range n {
			h, err := t.net.host(ctx, fmt.Sprint("nats-", site, i+1))
			if err != nil {
				return err
			}
			if site == poolName {
				err = t.move(ctx, h)
			} else {
				urls = append(urls, "tls://"+h.addr+":4222")
			}
			if err != nil {
				return err
			}
			hosts[site], addrs, gates[site] = append(hosts[site], h), append(addrs, h.addr), append(gates[site], fmt.Sprintf("%q", "tls://"+h.addr+":7222"))
		}
	}
	if err := product.Certificates(t.dir, addrs); err != nil {
		return err
	}
	if _, err := rig.Run(ctx, t.o.Bin.Leeward, "nats", "init", "--dir", t.dir, "--urls", strings.Join(urls, ","), "--ca", filepath.Join(t.dir, "ca.pem")); err != nil {
		return err
	}
	plain, err := os.ReadFile(filepath.Join(t.o.Nodes, "node.conf"))
	if err != nil {
		return err
	}
	for site, all := range hosts {
		conf := strings.Replace(string(plain), "name: leeward", "name: "+site, 1) + fmt.Sprintf(`
gateway {
  name: %s
  listen: $LEEWARD_GATEWAY
  gateways: [
    { name: home, urls: [ %s ] }
    { name: %s, urls: [ %s ] }
  ]
  tls { cert_file: "cert.pem", key_file: "key.pem", ca_file: "ca.pem", verify: true, timeout: 5 }
}
`, site, strings.Join(gates["home"], ", "), poolName, strings.Join(gates[poolName], ", "))
		if err := os.WriteFile(filepath.Join(t.dir, site+".conf"), []byte(conf), 0o600); err != nil {
			return err
		}
		for _, h := range all {
			t.stores[h.name] = filepath.Join(t.rig.Dir, "store-"+h.name)
			env := []string{
				"LEEWARD_NODE=" + h.name, "LEEWARD_LISTEN=" + h.addr + ":4222", "LEEWARD_CLUSTER=" + h.addr + ":6222",
				"LEEWARD_GATEWAY=" + h.addr + ":7222", "LEEWARD_STORE=" + t.stores[h.name],
			}
			for i := range 3 {
				env = append(env, fmt.Sprintf("LEEWARD_ROUTE_%d=tls://%s:6222", i+1, all[i%len(all)].addr))
			}
			if _, err := t.run(h, rig.Command{Argv: []string{t.o.Bin.Leeward, "nats", "run", "--config", site + ".conf", "--log-level", "warn"}, Env: env, Dir: t.dir}); err != nil {
				return err
			}
		}
	}
	t.west = hosts[poolName][0]
	return nil
}

// move unplugs a host at home and plugs it in at the other site.
func (t *pooled) move(ctx context.Context, h *host) error {
	_, err := rig.Run(ctx, "ip", "link", "set", h.port, "master", "br1")
	return err
}

// run starts a program and keeps it running.
func (t *pooled) run(h *host, c rig.Command) (*rig.Keeper, error) {
	c.Name, c.Argv = h.name, h.on(c.Argv...)
	return rig.Keep(t.rig, c)
}

// servers starts a process server at home; the pool's, and control, at the other site.
func (t *pooled) servers(ctx context.Context) (err error) {
	store := "dir://" + product.Vault(t.dir)
	if _, err := rig.Run(ctx, t.o.Bin.Leeward, "vault", "init", "--vault", store, "--key-file", product.Key(t.dir)); err != nil {
		return err
	}
	near := []string{"--server", "tls://" + t.west.addr + ":4222"}
	for _, p := range []struct {
		name, role string
		west       bool
		argv       []string
	}{
		{"process-home", "process", false, nil},
		{"process-west", "process", true, append([]string{"--pool", poolName}, near...)},
		{"control", "control", true, append([]string{"--dir", t.dir, "--changes-bytes", fmt.Sprint(256 << 20), "--pool", poolName + "@" + poolName + ":1", "--reverse-pool", poolName}, near...)},
		{"web", "", false, nil}, {rescueName, "", false, nil},
	} {
		h, err := t.net.host(ctx, p.name)
		if err == nil && p.west {
			err = t.move(ctx, h)
		}
		if err != nil {
			return err
		}
		switch p.name {
		case "web":
			t.here = h
			continue
		case rescueName:
			t.metal = h
			continue
		case "control":
			t.front = h.addr
			p.argv = append(p.argv, "--manage", h.addr+":8443")
		}
		argv := append([]string{t.o.Bin.Leeward, p.role, "--context", product.Context(t.dir, p.role), "--vault", store, "--key-file", product.Key(t.dir)}, p.argv...)
		if _, err := t.run(h, rig.Command{Argv: argv}); err != nil {
			return err
		}
	}
	// Four nodes, and all that is theirs to make, take longer than an appliance.
	for {
		if t.site, err = product.Connect(ctx, t.dir, nil); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	t.rig.Defer("disconnect", func() error { t.site.Close(); return nil })
	return rig.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		all, err := t.site.API.Processes(ctx)
		return len(all) == 2, err
	})
}

// links are how many each process server has taken.
func (t *pooled) links(ctx context.Context) (map[string]uint64, error) {
	all, err := t.site.API.Processes(ctx)
	if err == nil && len(all) != 2 {
		err = fmt.Errorf("%d process servers answer", len(all))
	}
	n := map[string]uint64{}
	for _, p := range all {
		n[p.ID] = p.Links
	}
	return n, err
}

// forward sees who has handled what the agent sent, and where the streams are.
func (t *pooled) forward(ctx context.Context) (err error) {
	if t.before, err = t.links(ctx); err != nil {
		return err
	}
	for id, n := range t.before {
		if n == 0 {
			continue
		}
		if t.home != "" {
			return fmt.Errorf("two process servers have taken changes of a machine at home: %v", t.before)
		}
		t.home, t.res.Forward = id, n
	}
	t.res.Placed = true
	for name, dir := range t.stores {
		found, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*"))
		if err != nil {
			return err
		}
		has := func(stream string) bool {
			return slices.ContainsFunc(found, func(p string) bool { return filepath.Base(p) == stream })
		}
		west := name == t.west.name
		if len(found) == 0 || has(streams.Pool(poolName).Stream()) != west || has(streams.Changes) == west || has(streams.Receipts) == west {
			t.res.Placed = false
			t.o.Say("%s has %d streams, %v", name, len(found), found)
		}
	}
	return nil
}

// lineOut cuts the line between the sites while the machine writes at the other, and waits
// until there is a point of what it wrote after that.
func (t *pooled) lineOut(ctx context.Context) error {
	began := time.Now()
	if _, err := t.site.AwaitPoint(ctx, rescued, began, nil); err != nil {
		return fmt.Errorf("no point of what the machine writes at the other site: %w", err)
	}
	t.o.Say("the line is cut")
	out := time.Now()
	if _, err := rig.Run(ctx, "ip", "link", "set", line, "down"); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t.o.Cut):
	}
	if _, err := rig.Run(ctx, "ip", "link", "set", line, "up"); err != nil {
		return err
	}
	back := time.Now()
	t.res.Cut = back.Sub(out).Seconds()
	t.o.Say("the line is back")
	if _, err := t.site.AwaitPoint(ctx, rescued, back, nil); err != nil {
		return fmt.Errorf("no point of what the machine wrote after the line was out: %w", err)
	}
	t.res.Recovery = time.Since(back).Seconds()
	all, err := t.site.API.Points(ctx, api.Query{Machine: rescued, Since: began})
	t.res.Points = len(all)
	return err
}

// reversed sees who has handled what the machine wrote at the other site.
func (t *pooled) reversed(ctx context.Context) error {
	now, err := t.links(ctx)
	if err != nil {
		return err
	}
	for id, n := range now {
		if id == t.home {
			t.res.Strayed = n - t.before[id]
		} else {
			t.res.Reverse = n - t.before[id]
		}
	}
	return nil
}

// again protects the machine at home as before.
func (t *pooled) again(ctx context.Context) error {
	before, err := t.links(ctx)
	if err != nil {
		return err
	}
	l, err := t.site.API.Life(ctx, rescued)
	if err == nil && l.Phase != life.Protected {
		err = fmt.Errorf("it is %s", l.Phase)
	}
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := t.rig.Start(rig.Command{Name: "agent2", Argv: t.here.on(t.o.Bin.Protect(product.Protection{
		Site: t.dir, Machine: rescued, Disk: t.dev, Name: "sda", Capture: "scan", Interval: time.Second, StateDir: filepath.Join(t.rig.Dir, "agent"),
	}).Argv...)}); err != nil {
		return err
	}
	if _, err := t.site.AwaitPoint(ctx, rescued, began, nil); err != nil {
		return fmt.Errorf("no point of the machine at home again: %w", err)
	}
	after, err := t.links(ctx)
	t.res.Again = err == nil && after[t.home] > before[t.home]
	return err
}
