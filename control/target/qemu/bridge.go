package qemu

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A guest on a bridge is a machine among those of the network that the bridge is part of.
// Its end of the cable, a tap, is made by this process and inherited by QEMU, whose
// sandbox would not let it be made there. The tap goes when QEMU ends.

// bridgeHelpers is where distributions put the program that makes taps for those who may not.
var bridgeHelpers = []string{"/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper"}

const (
	tunDevice  = "/dev/net/tun"
	bridgeTime = 10 * time.Second
	// maxInterface is the longest name of a network interface.
	maxInterface = unix.IFNAMSIZ - 1
)

// checkBridge says why a guest cannot be attached to a bridge of this host.
func checkBridge(name string) error {
	if name == "" || len(name) > maxInterface || strings.ContainsAny(name, "/ \t\n,") || name == "." || name == ".." {
		return fmt.Errorf("%q is no name of a bridge: it has 1 to %d characters", name, maxInterface)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	d, err := unix.IoctlGetEthtoolDrvinfo(s, name)
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("there is no network interface %s on this host: make the bridge, or choose another (ip link show type bridge)", name)
	case err != nil || unix.ByteSliceToString(d.Driver[:]) != "bridge":
		return fmt.Errorf("the network interface %s is no bridge: choose another (ip link show type bridge)", name)
	}
	if err := mayMakeTaps(); err != nil && bridgeHelper() == "" {
		return fmt.Errorf("a machine cannot be attached to bridge %s: %w: give this service CAP_NET_ADMIN and %s, or install qemu-bridge-helper and allow the bridge in /etc/qemu/bridge.conf", name, err, tunDevice)
	}
	return nil
}

// mayMakeTaps says why this process may not make a tap itself.
func mayMakeTaps() error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return fmt.Errorf("look at the rights of this process: %w", err)
	}
	if d[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("this process has no right to administer the network")
	}
	return unix.Access(tunDevice, unix.R_OK|unix.W_OK)
}

func bridgeHelper() string {
	for _, h := range bridgeHelpers {
		if st, err := os.Stat(h); err == nil && st.Mode()&0o111 != 0 {
			return h
		}
	}
	return ""
}

// attach makes a tap that is a port of a bridge. It is there as long as the file is open
// anywhere.
func attach(ctx context.Context, bridge string) (*os.File, error) {
	if mayMakeTaps() == nil {
		f, err := tap(bridge)
		if err != nil {
			return nil, fmt.Errorf("attach the machine to bridge %s: %w", bridge, err)
		}
		return f, nil
	}
	f, err := helped(ctx, bridge)
	if err != nil {
		return nil, fmt.Errorf("attach the machine to bridge %s: %w", bridge, err)
	}
	return f, nil
}

// ifreq is the kernel's request about an interface.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data [24]byte
}

func request(name string) *ifreq {
	r := new(ifreq)
	copy(r.name[:maxInterface], name)
	return r
}

func (r *ifreq) do(fd int, what uintptr) error {
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), what, uintptr(unsafe.Pointer(r))); no != 0 {
		return no
	}
	return nil
}

func (r *ifreq) short() *uint16 { return (*uint16)(unsafe.Pointer(&r.data)) }
func (r *ifreq) long() *uint32  { return (*uint32)(unsafe.Pointer(&r.data)) }

// tap makes a tap and plugs it into a bridge.
func tap(bridge string) (f *os.File, err error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", tunDevice, err)
	}
	f = os.NewFile(uintptr(fd), "tap")
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	r := request("leeward%d") // the kernel puts a number there
	*r.short() = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if err := r.do(fd, unix.TUNSETIFF); err != nil {
		return nil, fmt.Errorf("make a tap: %w", err)
	}
	return f, plug(unix.ByteSliceToString(r.name[:]), bridge)
}

// plug makes an interface a port of a bridge and takes it up.
func plug(name, bridge string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	step := func(what string, r *ifreq, change uintptr) error {
		if err := r.do(s, change); err != nil {
			return fmt.Errorf("%s of %s: %w", what, unix.ByteSliceToString(r.name[:]), err)
		}
		return nil
	}
	// A bridge takes the lowest of its ports' addresses for its own, and the smallest MTU:
	// a tap must change neither.
	mac := request(name)
	if err := step("read the address", mac, unix.SIOCGIFHWADDR); err != nil {
		return err
	}
	mac.data[2] = 0xfe
	if err := step("set the address", mac, unix.SIOCSIFHWADDR); err != nil {
		return err
	}
	mtu := request(bridge)
	if err := step("read the MTU", mtu, unix.SIOCGIFMTU); err != nil {
		return err
	}
	own := request(name)
	*own.long() = *mtu.long()
	if err := step("set the MTU", own, unix.SIOCSIFMTU); err != nil {
		return err
	}
	index := request(name)
	if err := step("read the number", index, unix.SIOCGIFINDEX); err != nil {
		return err
	}
	port := request(bridge)
	*port.long() = *index.long()
	if err := step("add a port", port, unix.SIOCBRADDIF); err != nil {
		return err
	}
	flags := request(name)
	if err := step("read the flags", flags, unix.SIOCGIFFLAGS); err != nil {
		return err
	}
	*flags.short() |= unix.IFF_UP
	return step("set the flags", flags, unix.SIOCSIFFLAGS)
}

// helped has QEMU's helper make the tap, which obeys /etc/qemu/bridge.conf.
func helped(ctx context.Context, bridge string) (*os.File, error) {
	path := bridgeHelper()
	if path == "" {
		return nil, errors.New("this process may not, and qemu-bridge-helper is not installed")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	defer unix.Close(fds[0])
	theirs := os.NewFile(uintptr(fds[1]), "helper")
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(ctx, bridgeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--use-vnet", "--fd=3", "--br="+bridge)
	cmd.ExtraFiles = []*os.File{theirs}
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(string(said)))
	}
	var one [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	// It has ended, so what it had to say is there.
	_, n, _, _, err := unix.Recvmsg(fds[0], one[:], oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%s gave no tap: %w", path, err)
	}
	all, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(all) != 1 {
		return nil, fmt.Errorf("%s gave no tap: %d messages, %v", path, len(all), err)
	}
	files, err := unix.ParseUnixRights(&all[0])
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("%s gave no tap: %d files, %v", path, len(files), err)
	}
	return os.NewFile(uintptr(files[0]), "tap"), nil
}

// macOf is the address of a guest's network card on a bridge: always the same for the same
// machine, so that it keeps its lease, and another for each.
func macOf(machine string) string {
	h := sha256.Sum256([]byte("leeward " + machine))
	return fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", h[0], h[1], h[2], h[3])
}
