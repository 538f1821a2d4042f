package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmpLine is the longest message QEMU is believed to send, in bytes.
const qmpLine = 4 << 20

// qmpTime is how long QEMU may take to answer.
const qmpTime = 20 * time.Second

// event is something QEMU tells unasked.
type event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// message is anything QEMU sends after its greeting.
type message struct {
	event
	ID     int64           `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// monitor is a connection to QEMU's monitor. Somebody reads from it all the time, as
// events come between replies.
type monitor struct {
	conn    net.Conn
	onEvent func(event) // called by the reader: must be quick and call nothing here

	mu      sync.Mutex
	next    int64
	waiting map[int64]chan message
	gone    chan struct{} // closed when QEMU no longer answers
}

// newMonitor starts reading from conn; close ends it.
func newMonitor(conn net.Conn, onEvent func(event)) *monitor {
	m := &monitor{conn: conn, onEvent: onEvent, waiting: make(map[int64]chan message), gone: make(chan struct{})}
	go m.read()
	return m
}

func (m *monitor) read() {
	defer close(m.gone)
	s := bufio.NewScanner(m.conn)
	s.Buffer(nil, qmpLine)
	for s.Scan() {
		var msg message
		if json.Unmarshal(s.Bytes(), &msg) != nil {
			continue // not for us; an answer that is lost times out
		}
		if msg.Name != "" {
			m.onEvent(msg.event)
			continue
		}
		m.mu.Lock()
		reply := m.waiting[msg.ID]
		delete(m.waiting, msg.ID)
		m.mu.Unlock()
		if reply != nil {
			reply <- msg // has room for it
		}
	}
}

// close ends the connection and waits for the reader.
func (m *monitor) close() {
	m.conn.Close()
	<-m.gone
}

// errGone means that QEMU has ended.
var errGone = errors.New("QEMU has ended")

// call carries out a command. args and into may be nil.
func (m *monitor) call(ctx context.Context, command string, args, into any) error {
	ctx, cancel := context.WithTimeout(ctx, qmpTime)
	defer cancel()
	reply := make(chan message, 1)
	m.mu.Lock()
	m.next++
	id := m.next
	m.waiting[id] = reply
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int64  `json:"id"`
	}{command, args, id})
	if err == nil {
		m.conn.SetWriteDeadline(time.Now().Add(qmpTime))
		_, err = m.conn.Write(append(b, '\n'))
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.waiting, id)
		m.mu.Unlock()
	}()
	if err != nil {
		return fmt.Errorf("%s: %w", command, errors.Join(errGone, err))
	}
	select {
	case msg := <-reply:
		if msg.Error != nil {
			return fmt.Errorf("%s: %s", command, msg.Error.Desc)
		}
		if into == nil {
			return nil
		}
		if err := json.Unmarshal(msg.Return, into); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		return nil
	case <-m.gone:
		return fmt.Errorf("%s: %w", command, errGone)
	case <-ctx.Done():
		return fmt.Errorf("%s: no answer: %w", command, ctx.Err())
	}
}

// human carries out a command of the human monitor, for what QMP has none.
func (m *monitor) human(ctx context.Context, line string) (answer string, err error) {
	err = m.call(ctx, "human-monitor-command", map[string]string{"command-line": line}, &answer)
	return answer, err
}

// bytesRead asks how much the guest has read from its disks.
func (m *monitor) bytesRead(ctx context.Context, disks int) (n int64, err error) {
	var all []struct {
		Node  string `json:"node-name"`
		Stats struct {
			Read int64 `json:"rd_bytes"`
		} `json:"stats"`
	}
	if err := m.call(ctx, "query-blockstats", nil, &all); err != nil {
		return 0, err
	}
	for i := range disks {
		for _, s := range all {
			if s.Node == exportName(i) {
				n += s.Stats.Read
			}
		}
	}
	return n, nil
}
