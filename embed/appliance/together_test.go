package appliance

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/targettest"
	"github.com/leeward-dr/leeward/streams"
)

// counting writes a number onto one machine's disk and, having done so, onto another's, and
// counts, until the file stop is there.
func counting(p, q *protected, stop string) (wait func() uint64) {
	p.Helper()
	var n uint64
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := os.Stat(stop); err == nil {
				if err := os.WriteFile(stop+".done", nil, 0o600); err != nil {
					p.Error(err)
				}
				return
			}
			n++
			b := binary.LittleEndian.AppendUint64([]byte("count "), n)
			for _, d := range []*protected{p, q} {
				f, err := os.OpenFile(d.disk, os.O_WRONLY, 0)
				if err == nil {
					_, err = f.WriteAt(b, 2<<20)
				}
				if err == nil {
					err = f.Close()
				}
				if err != nil {
					p.Error(err)
					return
				}
			}
		}
	}()
	wait = sync.OnceValue(func() uint64 { cancel(); <-done; return n })
	p.Cleanup(func() { wait() })
	return wait
}

// Two machines that are failed over together while they are written to, until a command
// stops that: one final point of both, nothing lost; or, when one of them is written to
// after it, both stay at home.
func TestPlannedGroup(t *testing.T) {
	t.Parallel()
	targettest.Need(t, "qemu-system-x86_64")
	dir := t.TempDir()
	startHere(t, dir)
	db, web := &protected{T: t, dir: dir, name: "db"}, &protected{T: t, dir: dir, name: "web"}
	all := []*protected{db, web}
	for _, p := range all {
		p.protect("tick")
	}
	for _, p := range all {
		p.pointOfNow()
	}
	db.cli("policy", "set", "default", "freeze_limit=10s")
	db.cli("group", "create", "shop", "db", "web")
	start := append([]string{"failover", "start", "shop", "--group", "--planned", "--confirm", "shop", "--wait"}, failoverFlags...)

	// One of them is written to as soon as there is a final point: its quiescing has begun.
	quiet := filepath.Join(t.TempDir(), "quiet")
	b := connect(t, dir, "admin")
	defer b.Close()
	sub, err := b.Conn.Subscribe(streams.MarkersSubject("shop"), func(*nats.Msg) {
		if _, err := os.Stat(quiet); err == nil {
			web.write(3<<20, fmt.Append(nil, time.Now().UnixNano())) // each time something else
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	// On a busy machine that may come later than the agent's last look, and then nobody can
	// know of it: that is tried again.
	for tries := 5; ; tries-- {
		ctx, cancel := context.WithTimeout(t.Context(), lifeTime)
		code, _, errs := lw(t, ctx, dir, append(start, "--quiesce", "touch "+quiet, "-o", "json")...)
		cancel()
		if code != 0 && (strings.Contains(errs, "changed on the source after the final point") || strings.Contains(errs, "changed after the final point")) {
			break
		}
		if code != 0 || tries == 0 {
			t.Fatalf("written to after the final point: code %d, %s", code, errs)
		}
		t.Log("the write was too late")
		for _, p := range all {
			p.cli("failover", "cancel", p.name, "--confirm", p.name, "--wait")
		}
		if err := os.Remove(quiet); err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			p.pointOfNow()
		}
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if l := p.life(); l.Phase != life.Protected || l.Job != "" {
			t.Errorf("%s is %+v", p.name, l)
		}
	}
	for _, p := range all {
		p.pointOfNow() // both go on
	}

	stop := filepath.Join(t.TempDir(), "stop")
	count := counting(db, web, stop)
	begin := time.Now()
	db.cli(append(start, "--quiesce", "touch "+stop+"; until test -e "+stop+".done; do sleep 0.05; done")...)
	t.Logf("together in %v", time.Since(begin))
	n := count()
	point := ""
	for _, p := range all {
		l := p.life()
		if l.Phase != life.FailedOver || l.Loss == nil || *l.Loss != 0 || l.Point == "" || point != "" && l.Point != point {
			t.Fatalf("%s is %+v", p.name, l)
		}
		point = l.Point
		out := filepath.Join(t.TempDir(), p.name+".img")
		p.cli("vault", "restore", "--point", point, "--machine", p.name, "--disk", "sda", "--to", out)
		got, err := os.ReadFile(out)
		if err != nil || !bytes.Equal(got, p.image()) || binary.LittleEndian.Uint64(got[2<<20+6:]) != n {
			t.Errorf("%s: the point is not what its disk held when %d was counted: %v", p.name, n, err)
		}
	}
	for _, p := range all {
		p.cli("failover", "cancel", p.name, "--confirm", p.name, "--wait")
	}
}
