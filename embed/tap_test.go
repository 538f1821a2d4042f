package embed

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"os"

	"github.com/leeward-dr/leeward/streams"
)

// stuckTap subscribes to everything a tap may hear and then never reads again.
func stuckTap(t *testing.T, s *Server) {
	t.Helper()
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(s.ClientURL(), "nats://"), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.(*net.TCPConn).SetReadBuffer(4096)
	_ = c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatal(err)
	}
	creds, err := os.ReadFile(s.CredsFile(Tap))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseDecoratedJWT(creds)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := nkeys.ParseDecoratedUserNKey(creds)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := kp.Sign([]byte(info.Nonce))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"jwt": token, "sig": sig, "headers": true, "verbose": false, "lang": "test", "version": "1", "name": "stuck tap"})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "CONNECT %s\r\nSUB leeward.> 1\r\nPING\r\n", b)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "PONG") {
			return
		}
		if strings.HasPrefix(line, "-ERR") {
			t.Fatal(line)
		}
	}
}

// A tap that does not read hears headers only, holds little of the server's memory,
// and does not stop the pipe.
func TestStuckTap(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	ensured(t, s)
	agent := connect(t, s, Agent)
	js, err := jetstream.New(agent.Conn, jetstream.WithPublishAsyncMaxPending(16))
	if err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, 64<<10)
	if _, err := io.ReadFull(rand.Reader, payload); err != nil {
		t.Fatal(err)
	}
	const messages = 400
	// The copies are made by process servers, which tell of each change.
	worker := connect(t, s, Process)
	told := nats.NewMsg(streams.TapSubject(streams.ChangesSubject("web1", "sda")))
	told.Header.Set("Leeward-Kind", "block")
	publish := func() time.Duration {
		t.Helper()
		began := time.Now()
		for range messages {
			if err := worker.Conn.PublishMsg(told); err != nil {
				t.Fatal(err)
			}
			if _, err := js.PublishAsync(streams.ChangesSubject("web1", "sda"), bytes.Clone(payload)); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-js.PublishAsyncComplete():
		case <-time.After(patience):
			t.Fatal("the pipe stands still")
		}
		if err := worker.Conn.FlushTimeout(patience); err != nil {
			t.Fatalf("who tells stands still: %v", err)
		}
		return time.Since(began)
	}
	publish() // warm
	free := publish()
	stuckTap(t, s)
	stuck := publish()
	for range 2 { // a machine that is busy just then slows it down once, not each time
		if stuck > 10*free+5*time.Second {
			t.Logf("with a stuck tap it took %v instead of %v", stuck, free)
			stuckTap(t, s)
			stuck = publish()
		}
	}
	z, err := s.ns.Connz(&server.ConnzOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range z.Conns {
		if c.Name != "stuck tap" {
			continue
		}
		if c.OutMsgs < messages/2 || c.OutBytes/c.OutMsgs > 1024 || c.Pending > messages*1024 {
			t.Errorf("the tap was sent %d bytes in %d messages, %d wait", c.OutBytes, c.OutMsgs, c.Pending)
		}
	}
	t.Logf("%d messages of 64 KiB: %v without, %v with a stuck tap", messages, free.Round(time.Millisecond), stuck.Round(time.Millisecond))
	if stuck > 10*free+5*time.Second {
		t.Errorf("with a stuck tap it took %v instead of %v", stuck, free)
	}
}
