package nbd

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxPath is how long the path of a unix socket can be.
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// Listen listens on a unix socket called name in dir, which may have a longer path
// than a socket can: a client with dir as its working directory connects to name. Only
// the owner may connect. Closing the listener removes the socket.
func Listen(dir, name string) (net.Listener, error) {
	path, release, err := reach(dir, name)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		release()
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(dir, name), err)
	}
	return &listener{l, release}, nil
}

// Connect connects to a unix socket that Listen made, however long the path of dir is.
func Connect(ctx context.Context, dir, name string) (net.Conn, error) {
	path, release, err := reach(dir, name)
	if err != nil {
		return nil, err
	}
	defer release()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(dir, name), err)
	}
	return conn, nil
}

type listener struct {
	net.Listener
	release func()
}

func (l *listener) Close() error {
	defer l.release()
	return l.Listener.Close()
}

// reach returns a path of dir/name that is short enough, good until release.
func reach(dir, name string) (path string, release func(), err error) {
	path = filepath.Join(dir, name)
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), func() { d.Close() }, nil
}
