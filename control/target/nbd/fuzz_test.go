package nbd

import (
	"io"
	"net"
	"testing"
	"time"
)

// start is what a client says before its first request.
func start() []byte {
	b := []byte{0, 0, 0, 3}
	b = append(b, optionBytes(optStructuredReply, nil)...)
	b = append(b, optionBytes(optSetMeta, metaData("d", contextAllocation))...)
	return append(b, optionBytes(optGo, goData("d"))...)
}

// A client may say anything: the server ends the connection and lives.
func FuzzConn(f *testing.F) {
	var all []byte
	for cmd := range uint16(9) {
		r := request{cmd: cmd, length: 4096}
		all = append(all, requestBytes(r)...)
		if cmd == cmdWrite {
			all = append(all, make([]byte, 4096)...)
		}
	}
	f.Add(false, start())
	f.Add(false, append(start(), all...))
	f.Add(true, all)
	f.Add(true, requestBytes(request{cmd: cmdWrite, length: 0xffffffff}))
	f.Add(true, requestBytes(request{cmd: cmdRead, off: 1<<64 - 1, length: 0xffffffff}))
	f.Add(true, requestBytes(request{cmd: cmdTrim, flags: 0xffff, length: 1}))
	f.Add(false, append([]byte{0, 0, 0, 1}, optionBytes(optExportName, []byte("d"))...))
	f.Add(false, append([]byte{0, 0, 0, 1}, optionBytes(optListMeta, []byte{0xff, 0xff, 0xff, 0xff})...))
	f.Fuzz(func(t *testing.T, started bool, said []byte) {
		s, err := NewServer(nil, Config{Name: "d", Export: &array{b: make([]byte, 64<<10)}})
		if err != nil {
			t.Fatal(err)
		}
		if started {
			said = append(start(), said...)
		}
		us, them := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = s.ServeConn(t.Context(), them)
		}()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, us)
		}()
		us.SetDeadline(time.Now().Add(2 * time.Minute))
		_, _ = us.Write(said)
		_, _ = us.Write(requestBytes(request{cmd: cmdDisc}))
		us.Close()
		select {
		case <-served:
		case <-time.After(2 * time.Minute):
			t.Fatal("the server does not let go of a client that left")
		}
		<-drained
	})
}
