package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Bitmap is the name of QEMU's own tracking of changes among the peers.
const Bitmap = "qemu dirty bitmap"

// bitmap is a QEMU that runs all the time with the disk, notes which 64 KiB of it are
// written to, and copies those when it is asked to. The images it makes are those of
// qemu-img, which restores them.
type bitmap struct {
	qemu
	rig    *rig.Rig
	server *rig.Process
	qmp    *qmp
}

func (*bitmap) Name() string { return Bitmap }
func (*bitmap) Note() string {
	return "NOT encrypted, zstd qcow2, blockdev-backup over QMP with a dirty bitmap of 64 KiB; the disk is read with O_DIRECT; it reads only what changed"
}

// program is what serves the disk: no guest is needed.
func (*bitmap) program() string {
	for _, p := range []string{"qemu-storage-daemon", "qemu-system-x86_64", "qemu-system-aarch64"} {
		if _, ok := rig.Have(p); ok {
			return p
		}
	}
	return ""
}

func (t *bitmap) Missing() string {
	if why := t.qemu.Missing(); why != "" {
		return why
	}
	if t.program() == "" {
		return "neither qemu-storage-daemon nor qemu-system-x86_64 is on PATH"
	}
	return ""
}

func (t *bitmap) live() string { return filepath.Join(t.Dir, "live.img") }

// Init starts a QEMU with the disk of day one.
func (t *bitmap) Init(ctx context.Context) (err error) {
	if err := errors.Join(t.Close(), t.clean()); err != nil {
		return err
	}
	if _, err := rig.Run(ctx, "cp", "--sparse=always", t.Source, t.live()); err != nil {
		return err
	}
	if t.rig, err = rig.New("", slog.New(slog.DiscardHandler)); err != nil { // short: sockets have a limit
		return err
	}
	monitor, name := filepath.Join(t.rig.Dir, "m"), t.program()
	argv := []string{name, "--chardev", "socket,id=c,server=on,wait=off,path=" + monitor, "--monitor", "chardev=c"}
	if name != "qemu-storage-daemon" {
		argv = []string{name, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "unix:" + monitor + ",server=on,wait=off"}
	}
	if t.server, err = t.rig.Start(rig.Command{Name: "qemu", Argv: argv}); err != nil {
		return err
	}
	if t.qmp, err = dialQMP(ctx, monitor, t.server.Alive); err != nil {
		return err
	}
	return t.qmp.all(ctx, []request{
		{"blockdev-add", args{"node-name": "disk", "driver": "raw", "file": args{"driver": "file", "filename": t.live(), "aio": "native", "cache": args{"direct": true}}}},
		{"block-dirty-bitmap-add", args{"node": "disk", "name": "b", "granularity": 64 << 10}},
		{"nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": t.socket()}}}},
		{"block-export-add", args{"type": "nbd", "id": "e", "node-name": "disk", "name": "disk", "writable": true}},
	})
}

func (t *bitmap) socket() string { return filepath.Join(t.rig.Dir, "d") }

// Change writes what a guest would have written by the next day.
func (t *bitmap) Change(ctx context.Context, image string, blocks []int64) error {
	w, err := dialNBD(ctx, t.socket(), "disk")
	if err != nil {
		return err
	}
	defer w.close()
	return w.copyBlocks(image, blocks)
}

// Backup copies everything on day one, and what the bitmap says on the others.
func (t *bitmap) Backup(ctx context.Context, day int) (u rig.Usage, err error) {
	info, err := os.Stat(t.live())
	if err != nil {
		return u, err
	}
	argv := []string{"qemu-img", "create", "-q", "-f", "qcow2", "-o", "compression_type=zstd"}
	if day > 1 {
		argv = append(argv, "-b", t.image(day-1), "-F", "qcow2")
	}
	if _, err := rig.Run(ctx, append(argv, t.image(day), fmt.Sprint(info.Size()))...); err != nil {
		return u, err
	}
	began, before := time.Now(), t.server.CPU()
	target := args{"node-name": "t", "driver": "qcow2", "file": args{"driver": "file", "filename": t.image(day)}}
	job := args{"job-id": "j", "device": "disk", "target": "t", "sync": "incremental", "bitmap": "b", "compress": true, "auto-dismiss": false, "x-perf": args{"max-workers": 16, "use-copy-range": false}}
	actions := []any{}
	if day == 1 {
		target["backing"], job["sync"] = nil, "full"
		delete(job, "bitmap")
		actions = append(actions, args{"type": "block-dirty-bitmap-clear", "data": args{"node": "disk", "name": "b"}})
	}
	actions = append(actions, args{"type": "blockdev-backup", "data": job})
	if err := t.qmp.all(ctx, []request{{"blockdev-add", target}, {"transaction", args{"actions": actions}}}); err != nil {
		return u, err
	}
	if err := t.concluded(ctx); err != nil {
		return u, err
	}
	err = t.qmp.all(ctx, []request{{"job-dismiss", args{"id": "j"}}, {"blockdev-del", args{"node-name": "t"}}})
	if err == nil {
		err = rig.Syncfs(t.Dir)
	}
	return rig.Usage{Wall: time.Since(began), CPU: t.server.CPU() - before, RSS: t.server.RSS()}, err
}

// concluded waits for the end of the job.
func (t *bitmap) concluded(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("the backup does not end"))
	defer cancel()
	return rig.Poll(ctx, 5*time.Millisecond, func() (bool, error) {
		var jobs []struct{ ID, Status, Error string }
		if err := t.qmp.call(ctx, request{"query-jobs", nil}, &jobs); err != nil {
			return false, err
		}
		for _, j := range jobs {
			if j.ID == "j" && j.Status == "concluded" {
				if j.Error != "" {
					return false, fmt.Errorf("backup: %s", j.Error)
				}
				return true, nil
			}
		}
		return false, nil
	})
}

// Close ends QEMU.
func (t *bitmap) Close() error {
	if t.rig == nil {
		return nil
	}
	if t.qmp != nil {
		t.qmp.conn.Close()
	}
	err := t.rig.Close()
	t.rig, t.qmp, t.server = nil, nil, nil
	return err
}

type args map[string]any

// request is a command of QMP.
type request struct {
	Execute   string `json:"execute"`
	Arguments args   `json:"arguments,omitempty"`
}

// qmp is a connection to QEMU's monitor.
type qmp struct {
	conn net.Conn
	in   *json.Decoder
}

// dialQMP waits until the monitor answers.
func dialQMP(ctx context.Context, socket string, alive func() error) (*qmp, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("QEMU does not answer"))
	defer cancel()
	var conn net.Conn
	err := rig.Poll(ctx, 10*time.Millisecond, func() (bool, error) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false, alive()
		}
		conn = c
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	q := &qmp{conn, json.NewDecoder(bufio.NewReader(conn))}
	if err := q.call(ctx, request{"qmp_capabilities", nil}, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return q, nil
}

// qmpTime bounds each answer.
const qmpTime = time.Minute

// call carries out one command.
func (q *qmp) call(_ context.Context, r request, into any) error {
	if err := q.conn.SetDeadline(time.Now().Add(qmpTime)); err != nil {
		return err
	}
	if err := json.NewEncoder(q.conn).Encode(r); err != nil {
		return fmt.Errorf("QEMU: %s: %w", r.Execute, err)
	}
	for {
		var m struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := q.in.Decode(&m); err != nil {
			return fmt.Errorf("QEMU: %s: %w", r.Execute, err)
		}
		switch {
		case m.Error != nil:
			return fmt.Errorf("QEMU: %s: %s", r.Execute, m.Error.Desc)
		case m.Return == nil: // the greeting, or an event
		case into != nil:
			return json.Unmarshal(m.Return, into)
		default:
			return nil
		}
	}
}

// all carries out commands one after the other.
func (q *qmp) all(ctx context.Context, rs []request) error {
	for _, r := range rs {
		if err := q.call(ctx, r, nil); err != nil {
			return err
		}
	}
	return nil
}
