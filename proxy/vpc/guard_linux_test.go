package vpc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wire is a packet socket on a device.
type wire struct {
	t     testing.TB
	file  *os.File
	index int
}

// wire opens a packet socket for everything on a device inside ns.
func (l *lab) wireOn(ns *namespace, device string) *wire {
	l.t.Helper()
	dev, err := l.nl(ns).LinkByName(device)
	if err != nil {
		l.t.Fatalf("%s: %v", device, err)
	}
	w := &wire{t: l.t, index: dev.Attrs().Index}
	err = l.thread.in(l.t.Context(), ns, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		w.file = os.NewFile(uintptr(fd), device)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: w.index})
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { w.file.Close() })
	return w
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

func (w *wire) send(frame []byte) {
	w.t.Helper()
	err := control(w.file, func(fd int) error {
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index, Halen: 6})
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// heard reads until marker arrives and reports whether frame came before it: its
// end, because the kernel takes tags and padding off.
func (w *wire) heard(frame, marker []byte) (came bool) {
	w.t.Helper()
	_ = w.file.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 4096)
	for {
		n, err := w.file.Read(b)
		if err != nil {
			w.t.Fatalf("the marker does not arrive: %v", err)
		}
		if bytes.HasPrefix(b[:n], marker) {
			return came
		}
		came = came || bytes.Contains(b[:n], frame[len(frame)-20:])
	}
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func ether(dst, src net.HardwareAddr, kind uint16, payload ...[]byte) []byte {
	return slices.Concat(dst, src, binary.BigEndian.AppendUint16(nil, kind), slices.Concat(payload...))
}

// arp is an ARP message to everybody.
func arp(src net.HardwareAddr, op byte, senderMAC net.HardwareAddr, senderIP, targetIP string) []byte {
	return ether(broadcast, src, unix.ETH_P_ARP, []byte{0, 1, 8, 0, 6, 4, 0, op},
		senderMAC, netip.MustParseAddr(senderIP).AsSlice(), broadcast, netip.MustParseAddr(targetIP).AsSlice())
}

// ipv4 is an UDP datagram without content.
func ipv4(src, dst string) []byte {
	b := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0}
	b = slices.Concat(b, netip.MustParseAddr(src).AsSlice(), netip.MustParseAddr(dst).AsSlice(), []byte{0x30, 0x39, 0, 9, 0, 8, 0, 0})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	return b
}

// hardware returns the address of a device inside ns.
func (l *lab) hardware(ns *namespace, device string) net.HardwareAddr {
	l.t.Helper()
	dev, err := l.nl(ns).LinkByName(device)
	if err != nil {
		l.t.Fatal(err)
	}
	return dev.Attrs().HardwareAddr
}

// hostile is a network with mallory in it, who sends, and two who listen: the
// client, behind another port of the same bridge, and the router, on the bridge.
type hostile struct {
	*lab
	n                            Network
	mallory, client, router      *wire
	me, victim, gateway, nobody  net.HardwareAddr
	marker                       func(i int) []byte
	sent                         int
	malloryNS, clientNS, routeNS *namespace
}

func newHostile(t *testing.T, n Network) *hostile {
	t.Helper()
	l := newLab(t)
	l.ensure(n)
	h := &hostile{lab: l, n: n, routeNS: l.where(n.ID, ""), malloryNS: l.where(n.ID, mallory), clientNS: l.where(n.ID, client)}
	bridge := deviceName(bridgePrefix, "vsw-h")
	h.mallory, h.client, h.router = l.wireOn(h.malloryNS, "eth0"), l.wireOn(h.clientNS, "eth0"), l.wireOn(h.routeNS, bridge)
	h.me, h.victim, h.gateway = l.hardware(h.malloryNS, "eth0"), l.hardware(h.clientNS, "eth0"), l.hardware(h.routeNS, bridge)
	h.nobody = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	h.marker = func(i int) []byte {
		return ether(broadcast, h.me, unix.ETH_P_IP, ipv4(malloryIP, fmt.Sprintf("10.0.1.%d", 100+i%100)))
	}
	return h
}

// passes sends a frame and reports whether anybody heard it. A frame that mallory
// may send follows it on the same way, so there is nothing to wait for.
func (h *hostile) passes(frame []byte) bool {
	h.t.Helper()
	marker := h.marker(h.sent)
	h.sent++
	h.mallory.send(frame)
	h.mallory.send(marker)
	atClient, atRouter := h.client.heard(frame, marker), h.router.heard(frame, marker)
	return atClient || atRouter
}

// forgeries are frames that mallory must not get through.
func (h *hostile) forgeries() map[string][]byte {
	to := func(src net.HardwareAddr, from string) []byte {
		return ether(broadcast, src, unix.ETH_P_IP, ipv4(from, clientIP))
	}
	tagged := func(id byte, inner []byte) []byte {
		return slices.Concat(inner[:12], []byte{0x81, 0, 0, id}, inner[12:])
	}
	content := bytes.Repeat([]byte{0xab}, 40)
	lldp := net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0x0e}
	return map[string][]byte{
		"ARP reply for the gateway":                arp(h.me, 2, h.me, gatewayIP, gatewayIP),
		"ARP request for the gateway":              arp(h.me, 1, h.me, gatewayIP, gatewayIP),
		"ARP reply for an endpoint":                arp(h.me, 2, h.me, eniIP, eniIP),
		"ARP request for an endpoint":              arp(h.me, 1, h.me, eniIP, clientIP),
		"ARP reply for another attachment":         arp(h.me, 2, h.me, clientIP, clientIP),
		"ARP reply for nobody's address":           arp(h.me, 2, h.me, "10.0.1.77", "10.0.1.77"),
		"ARP probe":                                arp(h.me, 1, h.me, "0.0.0.0", clientIP),
		"ARP reply that gives the victim's MAC":    arp(h.me, 2, h.victim, malloryIP, malloryIP),
		"ARP reply that gives the gateway's MAC":   arp(h.me, 2, h.gateway, malloryIP, malloryIP),
		"ARP reply from the victim's MAC":          arp(h.victim, 2, h.victim, clientIP, clientIP),
		"ARP request for another vSwitch":          arp(h.me, 1, h.me, malloryIP, eni2IP),
		"ARP of another operation":                 arp(h.me, 3, h.me, malloryIP, malloryIP),
		"ARP of another hardware":                  slices.Replace(arp(h.me, 2, h.me, malloryIP, malloryIP), 14, 16, 0, 6),
		"IPv4 as another attachment":               to(h.me, clientIP),
		"IPv4 as an attachment of another vSwitch": to(h.me, farIP),
		"IPv4 as the gateway":                      to(h.me, gatewayIP),
		"IPv4 as an endpoint":                      to(h.me, eniIP),
		"IPv4 as nobody":                           to(h.me, "10.0.1.77"),
		"IPv4 from outside":                        to(h.me, "172.16.5.5"),
		"IPv4 from the internet":                   to(h.me, "8.8.8.8"),
		"IPv4 from 0.0.0.0":                        to(h.me, "0.0.0.0"),
		"IPv4 from the victim's MAC":               to(h.victim, malloryIP),
		"IPv4 from the gateway's MAC":              to(h.gateway, malloryIP),
		"IPv4 from a MAC of its own choice":        to(h.nobody, malloryIP),
		"IPv6":                                     ether(broadcast, h.me, unix.ETH_P_IPV6, []byte{0x60, 0, 0, 0, 0, 32, 59, 64}, content[:32], content[:32]),
		"IPv4 in a VLAN as another":                tagged(7, to(h.me, clientIP)),
		"IPv4 in two VLANs":                        tagged(7, tagged(8, to(h.me, malloryIP))),
		"PPPoE":                                    ether(broadcast, h.me, unix.ETH_P_PPP_SES, content),
		"RARP":                                     ether(broadcast, h.me, 0x8035, content),
		"LLDP from the victim's MAC":               ether(lldp, h.victim, 0x88cc, content),
	}
}

func TestForgeriesAreDropped(t *testing.T) {
	h := newHostile(t, example("vpc-a"))
	for name, frame := range h.forgeries() {
		if h.passes(frame) {
			t.Errorf("%s passes", name)
		}
	}
	for name, frame := range map[string][]byte{
		"its own ARP":               arp(h.me, 2, h.me, malloryIP, malloryIP),
		"a request for the gateway": arp(h.me, 1, h.me, malloryIP, gatewayIP),
		"a request for an endpoint": arp(h.me, 1, h.me, malloryIP, eniIP),
		"its own IPv4":              ether(broadcast, h.me, unix.ETH_P_IP, ipv4(malloryIP, clientIP)),
	} {
		if !h.passes(frame) {
			t.Errorf("%s does not pass", name)
		}
	}
	// Nobody's tables moved: the bridge still looks for the victim behind its own
	// port, and who asks for the endpoint finds the gateway.
	entries, err := h.nl(h.routeNS).NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		t.Fatal(err)
	}
	port, err := h.nl(h.routeNS).LinkByName(deviceName(portPrefix, client))
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(entries, func(n netlink.Neigh) bool { return bytes.Equal(n.HardwareAddr, h.victim) })
	if at < 0 || entries[at].LinkIndex != port.Attrs().Index {
		t.Errorf("the bridge looks for the victim at %+v", entries)
	}
	ln, err := h.Listen(t.Context(), h.n.ID, addrPort(eniIP, 443))
	h.serve(ln, err, "eni")
	c, err := h.DialFrom(t.Context(), h.n.ID, client, addrPort(eniIP, 443))
	talk(t, c, err, "eni "+clientIP)
	neighbours, err := h.nl(h.clientNS).NeighList(0, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range neighbours {
		if n.IP.String() == eniIP && !bytes.Equal(n.HardwareAddr, h.gateway) {
			t.Errorf("the client finds the endpoint at %v, want the gateway's %v", n.HardwareAddr, h.gateway)
		}
	}
}

// TestGuardIsWhatStops takes the guard away, sees forgeries pass, and sees Repair
// put it back.
func TestGuardIsWhatStops(t *testing.T) {
	h := newHostile(t, example("vpc-a"))
	c, err := h.nftables(t.Context(), h.routeNS)
	if err != nil {
		t.Fatal(err)
	}
	defer closeNftables(c)
	c.DelTable(&nftables.Table{Name: guardTable, Family: nftables.TableFamilyBridge})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ARP reply for an endpoint", "IPv4 as another attachment", "IPv4 from a MAC of its own choice", "IPv6"} {
		if !h.passes(h.forgeries()[name]) {
			t.Errorf("%s does not pass even without a guard: the test sees nothing", name)
		}
	}
	h.repair(h.n.ID)
	for name, frame := range h.forgeries() {
		if h.passes(frame) {
			t.Errorf("%s passes after the repair", name)
		}
	}
}

// TestRouteTargetSendsFromBehindIt: what custom routes lead to is what it may send
// from, and nothing of the VPC's.
func TestRouteTargetSendsFromBehindIt(t *testing.T) {
	n := example("vpc-a")
	n.Addresses = append(n.Addresses, netip.MustParseAddr("172.16.9.9")) // in no vSwitch
	n.Routes = []Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Attachment: mallory}}
	h := newHostile(t, n)
	from := func(ip string) []byte { return ether(broadcast, h.me, unix.ETH_P_IP, ipv4(ip, clientIP)) }
	for _, ip := range []string{"172.16.5.5", "8.8.8.8", "10.0.3.3", "172.16.9.8", "172.16.9.10"} {
		if !h.passes(from(ip)) {
			t.Errorf("source %s does not pass", ip)
		}
	}
	for _, ip := range []string{clientIP, farIP, gatewayIP, eniIP, eni2IP, "10.0.1.77", "172.16.9.9", "127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1"} {
		if h.passes(from(ip)) {
			t.Errorf("source %s passes", ip)
		}
	}
	if h.passes(arp(h.me, 2, h.me, "172.16.5.5", "172.16.5.5")) {
		t.Error("an ARP claim on what is behind it passes")
	}

	// An endpoint's address in no vSwitch is taken into account when it comes, and
	// the route's end takes all of it back.
	n.Addresses = append(n.Addresses, netip.MustParseAddr("172.16.5.5"))
	h.ensure(n)
	if h.passes(from("172.16.5.5")) {
		t.Error("source 172.16.5.5 passes, which is an endpoint now")
	}
	n.Routes = nil
	h.ensure(n)
	if h.passes(from("8.8.8.8")) {
		t.Error("source 8.8.8.8 passes without a route")
	}
}
