package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// bridgeWord says that this process is the test in a network namespace of its own.
const bridgeWord = "LEEWARD_TEST_BRIDGE"

const testBridge = "lwtest0"

// A guest on a bridge is heard on it under an address of its own, and leaves no port when
// it has ended. With LEEWARD_FULL=1 it gets an address there, and answers.
func TestBridge(t *testing.T) {
	if os.Getenv(bridgeWord) == "" {
		inNamespace(t)
		return
	}
	need(t)
	for _, line := range []string{
		"link set lo up", "link add " + testBridge + " type bridge", "addr add 10.213.7.1/24 dev " + testBridge, "link set " + testBridge + " mtu 1400 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	for name, want := range map[string]string{"": "no name", "nosuch0": "no network interface", "lo": "is no bridge", "../../etc": "no name", testBridge: ""} {
		err := checkBridge(name)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("bridge %q: %v, want %q", name, err, want)
		}
	}
	m := mbr(t)
	if err := New(Config{Bridge: "nosuch0"}).Validate(t.Context(), m); err == nil {
		t.Error("a machine can come up on a bridge that is not there")
	}
	heard := listen(t)
	r, _ := start(t, Config{Bridge: testBridge}, m)
	mac, err := net.ParseMAC(macOf(m.Name))
	if err != nil || mac[0]&3 != 2 || macOf("db2") == macOf(m.Name) {
		t.Fatalf("addresses %s and %s, %v", macOf(m.Name), macOf("db2"), err)
	}
	for frame := range heard {
		if bytes.Equal(frame[6:12], mac) {
			break
		}
	}
	if n := ports(t); n != 1 {
		t.Errorf("the bridge has %d ports", n)
	}
	if i, err := net.InterfaceByName(testBridge); err != nil || i.MTU != 1400 {
		t.Errorf("the bridge is %+v, %v", i, err)
	}
	if _, err := r.Probe(t.Context(), target.Probe{Port: 22, Timeout: time.Second}); err == nil || !strings.Contains(err.Error(), "address is not known") {
		t.Errorf("a port of a guest whose address nobody knows: %v", err)
	}
	if res := probe(t, r, target.Probe{Serial: "HEARTBEAT .* write=ok", Timeout: mbrTime}); !res.Alive {
		t.Errorf("%q", res.Evidence)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	targettest.WaitFor(t, mbrTime, "the port is gone", func() bool { return ports(t) == 0 })
	if os.Getenv("LEEWARD_FULL") != "" {
		answers(t)
	}
}

// inNamespace runs this test again in a network namespace that is gone afterwards.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("MISSING: root: it makes a network namespace and a bridge")
		}
		t.Skip("MISSING: root: bridges were not tested")
	}
	targettest.Need(t, "qemu-system-x86_64", "ip")
	if _, err := os.Stat(tunDevice); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this host has no %s: %v", tunDevice, err)
		}
		t.Skipf("this host has no %s", tunDevice)
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBridge$", "-test.v", "-test.timeout=5m")
	c.Env = append(os.Environ(), bridgeWord+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// ports counts the ports of the bridge.
func ports(t *testing.T) int {
	t.Helper()
	out, err := exec.Command("ip", "-o", "link", "show", "master", testBridge).Output()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(out, []byte("\n"))
}

// listen hears the frames on the bridge, for as long as a guest may take.
func listen(t *testing.T) <-chan []byte {
	t.Helper()
	all := int(uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8) // in the network's order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	i, err := net.InterfaceByName(testBridge)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: i.Index})
	}
	if err == nil {
		tv := unix.NsecToTimeval(mbrTime.Nanoseconds())
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	}
	if err != nil {
		t.Fatal(err)
	}
	frames := make(chan []byte, 1024)
	done := make(chan struct{})
	t.Cleanup(func() {
		unix.Shutdown(fd, unix.SHUT_RD)
		unix.Close(fd)
		<-done
	})
	go func() {
		defer close(done)
		defer close(frames)
		for end := time.Now().Add(mbrTime); time.Now().Before(end); {
			b := make([]byte, 2048)
			n, err := unix.Read(fd, b)
			if errors.Is(err, unix.EINTR) {
				continue // a read with a limit is not begun again after a signal, and Go's scheduler sends them
			}
			if err != nil {
				t.Errorf("nothing is heard on the bridge any more: %v", err)
				return
			}
			if n < 14 {
				continue
			}
			select {
			case frames <- b[:n]:
			default: // nobody listens any more
			}
			if mac, err := net.ParseMAC(macOf("db1,prod")); err == nil && bytes.Equal(b[6:12], mac) {
				return
			}
		}
		t.Error("the guest is not heard on the bridge")
	}()
	return frames
}

// answers boots a Linux on the bridge, which gets an address by DHCP there and serves HTTP.
func answers(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "udhcpd.conf")
	text := fmt.Sprintf("start 10.213.7.50\nend 10.213.7.50\ninterface %s\nlease_file %s/leases\npidfile %s/pid\noption subnet 255.255.255.0\noption router 10.213.7.1\n", testBridge, dir, dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "leases"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := exec.CommandContext(t.Context(), "busybox", "udhcpd", "-f", conf)
	d.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Process.Kill(); _ = d.Wait() }() // it does not end by itself
	m := machine(targettest.Image(t, "sda", targettest.Bootable(t, "tiny")))
	r, _ := start(t, Config{Bridge: testBridge, Address: "10.213.7.50", Hardware: Virtio}, m)
	if res := probe(t, r, target.Probe{Serial: "NETWORK", Port: 8080, HTTP: "/", Timeout: tinyTime}); !res.Alive {
		t.Errorf("%q", res.Evidence)
	}
	if res := probe(t, r, target.Probe{Port: 8080, Timeout: mbrTime}); !res.Alive || !strings.Contains(strings.Join(res.Evidence, ""), "10.213.7.50:8080") {
		t.Errorf("%q", res.Evidence)
	}
}
