package peers

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

// nbdTime bounds each answer of the server.
const nbdTime = time.Minute

// nbdWriter writes to an export of QEMU's, as the disk of a guest would be written.
type nbdWriter struct {
	conn net.Conn
	in   *bufio.Reader
}

// dialNBD connects to an export behind a socket.
func dialNBD(ctx context.Context, socket, export string) (w *nbdWriter, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the disk: %w", err)
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	w = &nbdWriter{conn, bufio.NewReader(conn)}
	if err := conn.SetDeadline(time.Now().Add(nbdTime)); err != nil {
		return nil, err
	}
	var hello struct {
		Magic, Option uint64
		Flags         uint16
	}
	if err := binary.Read(w.in, binary.BigEndian, &hello); err != nil {
		return nil, fmt.Errorf("connect to the disk: %w", err)
	}
	if hello.Magic != 0x4e42444d41474943 || hello.Option != 0x49484156454f5054 || hello.Flags&3 != 3 {
		return nil, errors.New("connect to the disk: the server is no NBD server of today")
	}
	b := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeros
	b = binary.BigEndian.AppendUint64(b, hello.Option)
	b = binary.BigEndian.AppendUint32(b, 1) // use the export of this name
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	if _, err := conn.Write(append(b, export...)); err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, w.in, 10); err != nil { // size and flags
		return nil, fmt.Errorf("open export %s: %w", export, err)
	}
	return w, nil
}

// ask sends a request and waits for its answer.
func (w *nbdWriter) ask(what uint16, off int64, n int, p []byte) error {
	if err := w.conn.SetDeadline(time.Now().Add(nbdTime)); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, what)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	if _, err := w.conn.Write(append(b, p...)); err != nil {
		return err
	}
	var answer struct {
		Magic, Error uint32
		Handle       uint64
	}
	if err := binary.Read(w.in, binary.BigEndian, &answer); err != nil {
		return err
	}
	if answer.Magic != 0x67446698 || answer.Error != 0 || answer.Handle != uint64(off) {
		return fmt.Errorf("the disk answers with error %d", answer.Error)
	}
	return nil
}

// copyBlocks writes the blocks of an image to the same places, and flushes.
func (w *nbdWriter) copyBlocks(image string, blocks []int64) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 64*rig.Block)
	for len(blocks) > 0 {
		n := 1
		for n < len(blocks) && n < 64 && blocks[n] == blocks[0]+int64(n) {
			n++
		}
		p := buf[:n*rig.Block]
		if _, err := f.ReadAt(p, blocks[0]*rig.Block); err != nil {
			return err
		}
		if err := w.ask(1, blocks[0]*rig.Block, len(p), p); err != nil {
			return fmt.Errorf("write to the disk of QEMU: %w", err)
		}
		blocks = blocks[n:]
	}
	return w.ask(3, 0, 0, nil)
}

func (w *nbdWriter) close() { w.conn.Close() }
