package vpc

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostLab is a lab whose host the test may use: not in a user namespace.
func hostLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	if l.pins == nil {
		n := with(example("vpc-a"),
			Attachment{ID: "att-nic", Kind: Interface, VSwitch: "vsw-h", Address: netip.MustParseAddr("10.0.1.40"), Name: "eth0", Index: 2},
			Attachment{ID: "att-box", Kind: Adopted, VSwitch: "vsw-h", Address: netip.MustParseAddr("10.0.1.50"), Path: "/proc/1/ns/net", Inode: 1})
		bad, err := l.Ensure(t.Context(), n)
		if err != nil || len(bad) != 2 || !strings.Contains(fmt.Sprint(bad), ModeNetns) {
			t.Errorf("in a user namespace: %v %v", bad, err)
		}
		t.Skip("in a user namespace there is no host to borrow from")
	}
	return l
}

// container is a namespace of somebody else's, with a default route of its own.
func (l *lab) container(name string) (path string, ns *namespace) {
	l.t.Helper()
	path = l.t.TempDir() + "/" + name
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		l.t.Fatal(err)
	}
	err := l.thread.in(l.t.Context(), nil, func() (err error) {
		if ns, err = unshare(); err != nil {
			return err
		}
		return unix.Mount(threadNamespace, path, "", unix.MS_BIND, "")
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		ns.close()
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			l.t.Error(err)
		}
	})
	h := l.nl(ns)
	own := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "own0", TxQLen: -1}, PeerName: "own1"}
	if err := h.LinkAdd(own); err != nil {
		l.t.Fatal(err)
	}
	err = errors.Join(h.LinkSetUp(own), h.AddrAdd(own, address(own.Index, netip.MustParsePrefix("172.17.0.2/16"))),
		h.RouteAdd(&netlink.Route{LinkIndex: own.Index, Gw: net.IPv4(172, 17, 0, 1)}))
	if err != nil {
		l.t.Fatal(err)
	}
	return path, ns
}

func TestAdopted(t *testing.T) {
	l := hostLab(t)
	ctx := t.Context()
	path, ns := l.container("box")
	box := Attachment{ID: "att-box", Kind: Adopted, VSwitch: "vsw-h", Address: netip.MustParseAddr("10.0.1.50"), Path: path, Inode: ns.inode}
	n := with(example("vpc-a"), box)
	n.CIDRs = prefixes("10.0.0.0/16", "192.168.7.0/24")
	l.ensure(n)
	ln, err := l.Listen(ctx, "vpc-a", addrPort(eni2IP, 443))
	l.serve(ln, err, "eni")
	c, err := l.DialFrom(ctx, "vpc-a", box.ID, addrPort(eni2IP, 443))
	talk(t, c, err, "eni 10.0.1.50")
	inner, err := l.listenIn("vpc-a", box.ID, "10.0.1.50:8080")
	l.serve(inner, err, "box")
	c, err = l.DialFrom(ctx, "vpc-a", far, addrPort("10.0.1.50", 8080))
	talk(t, c, err, "box "+farIP)
	if out, code := l.run("vpc-a", box.ID, Command{Args: []string{"ip", "-br", "address"}}); code != 0 || !strings.Contains(out, "172.17.0.2") {
		t.Errorf("a command in there sees %d %s", code, out)
	}
	routes := func() (n int) {
		all, err := l.nl(ns).RouteList(nil, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if prefixOf(r.Dst).Bits() == 0 && r.Gw.String() != "172.17.0.1" {
				t.Errorf("its default route is %v now", r)
			}
			if prefixOf(r.Dst).Bits() == 0 || r.Protocol == ours {
				n++
			}
		}
		return n
	}
	if got := routes(); got != 3 { // its default and one a range
		t.Errorf("%d routes, want 3", got)
	}
	l.repair("vpc-a")

	t.Run("ends without it", func(t *testing.T) {
		l := &lab{l.namespaces, t}
		s := l.session("vpc-a", box.ID, "sh", "-c", "echo ready; exec sleep 1000")
		s.line("ready")
		theirs := exec.Command("nsenter", "--net="+path, "sleep", "1000") // of the container's own
		if err := theirs.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = theirs.Process.Kill(); _ = theirs.Wait() }()
		l.ensure(without1(n, box.ID))
		if code := s.wait(); code != 143 && code != 137 {
			t.Errorf("our command in there ended with %d", code)
		}
		if err := theirs.Process.Signal(unix.Signal(0)); err != nil {
			t.Errorf("a process of its own: %v", err)
		}
		if got := routes(); got != 1 {
			t.Errorf("%d routes are left, want its own default", got)
		}
		if _, err := l.nl(ns).LinkByName(deviceName(peerPrefix, box.ID)); err == nil {
			t.Error("our device is still there")
		}
	})
	t.Run("is cut off when it is another", func(t *testing.T) {
		l := &lab{l.namespaces, t}
		path, ns := l.container("one")
		box := box
		box.ID, box.Path, box.Inode, box.Address = "att-one", path, ns.inode, netip.MustParseAddr("10.0.1.51")
		l.ensure(with(n, box))
		if err := os.Remove(path); err == nil {
			t.Fatal("a mount was removed")
		}
		if err := unix.Mount("/proc/self/ns/uts", path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(path, unix.MNT_DETACH) }()
		bad, err := l.Repair(t.Context(), "vpc-a")
		if err != nil || bad[box.ID] == nil {
			t.Errorf("repair: %v %v", bad, err)
		}
		if _, err := l.nl(ns).LinkByName(deviceName(peerPrefix, box.ID)); err == nil {
			t.Error("the namespace that was there is still in the vSwitch")
		}
	})
	refuse := func(name, want string, a Attachment) {
		t.Helper()
		bad, err := l.Ensure(ctx, with(n, a))
		if err != nil || bad[a.ID] == nil || !strings.Contains(bad[a.ID].Error(), want) {
			t.Errorf("%s: %v %v, want %q", name, bad, err, want)
		}
	}
	other := box
	other.Inode++
	refuse("another namespace", "was offered", other)
	other = box
	other.Path, other.Inode = "/proc/self/ns/net", l.home.inode
	refuse("the host's own", "host's own", other)
	other.Path, other.Inode = l.pins.path(routerPin("vpc-a")), l.where("vpc-a", "").inode
	refuse("a router", "of this installation", other)
	other.Path, other.Inode = "/proc/self/ns/uts", inodeOf("/proc/self/ns/uts")
	refuse("no network namespace", "not a network namespace", other)
	other.Path = "/no/such/file"
	refuse("nothing", "no such file", other)

	busy := box // the namespace has its own way to the VPC's range
	h := l.nl(ns)
	own, err := h.LinkByName("own0")
	if err == nil {
		err = h.RouteAdd(&netlink.Route{LinkIndex: own.Attrs().Index, Dst: ipNet(n.CIDRs[0]), Gw: net.IPv4(172, 17, 0, 1)})
	}
	if err != nil {
		t.Fatal(err)
	}
	refuse("a route in the way", "another way", busy)
}

// nic is a device of the host's for borrowing. Who is behind it is in another
// namespace, with the address.
func (l *lab) nic(name, ip string) (dev netlink.Link, behind *namespace) {
	l.t.Helper()
	host := l.nl(l.home)
	err := l.thread.in(l.t.Context(), nil, func() (err error) { behind, err = unshare(); return err })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(behind.close)
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, PeerName: "eth0"}
	err = behind.use(func(fd int) error {
		pair.PeerNamespace = netlink.NsFd(fd)
		return host.LinkAdd(pair)
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if dev, err := host.LinkByName(name); err == nil {
			_ = host.LinkDel(dev)
		}
	})
	inner := l.nl(behind)
	eth, err := inner.LinkByName("eth0")
	if err == nil {
		err = errors.Join(inner.AddrAdd(eth, address(eth.Attrs().Index, netip.MustParsePrefix(ip+"/24"))), inner.LinkSetUp(eth),
			inner.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(gatewayIP)}))
	}
	if err != nil {
		l.t.Fatal(err)
	}
	if dev, err = host.LinkByName(name); err == nil {
		err = errors.Join(host.LinkSetAlias(dev, "rack 7: left"), host.LinkSetUp(dev))
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return dev, behind
}

func TestInterface(t *testing.T) {
	l := hostLab(t)
	ctx := t.Context()
	name := "nic" + l.Installation
	dev, behind := l.nic(name, "10.0.1.40")
	nic := Attachment{ID: "att-nic", Kind: Interface, VSwitch: "vsw-h", Address: netip.MustParseAddr("10.0.1.40"), Name: name, Index: dev.Attrs().Index}
	n := with(example("vpc-a"), nic)
	host := l.nl(l.home)
	lent := func(l *lab) {
		t.Helper()
		if _, err := host.LinkByName(name); err == nil {
			t.Error("the device is still the host's")
		}
		ln, err := l.Listen(ctx, "vpc-a", addrPort(eni2IP, 443))
		if err != nil {
			t.Fatal(err)
		}
		l.serve(ln, err, "eni")
		c, err := l.dial(ctx, behind, netip.Addr{}, addrPort(eni2IP, 443))
		talk(t, c, err, "eni 10.0.1.40")
		ln.Close()
	}
	back := func() {
		t.Helper()
		got, err := host.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if a := got.Attrs(); a.Index != nic.Index || a.Alias != "rack 7: left" || a.Flags&net.FlagUp == 0 || a.MasterIndex != 0 {
			t.Errorf("it came back as %+v", a)
		}
	}
	for i := range 2 {
		l.ensure(n)
		lent(l)
		l.repair("vpc-a")
		lent(l)
		if i == 0 {
			l.ensure(without1(n, nic.ID))
		} else if err := l.Remove(ctx, "vpc-a"); err != nil {
			t.Fatal(err)
		}
		back()
	}
	c, err := l.DialFrom(ctx, "vpc-a", nic.ID, addrPort(eniIP, 443))
	refused(t, c, err, ErrNoAttachment)
	l.ensure(n)
	c, err = l.DialFrom(ctx, "vpc-a", nic.ID, addrPort(eniIP, 443))
	refused(t, c, err, ErrNoInside)

	// Who is behind it is guarded like others, but for the hardware address.
	forger := l.wireOn(behind, "eth0")
	me, router := l.hardware(behind, "eth0"), l.wireOn(l.where("vpc-a", ""), deviceName(bridgePrefix, "vsw-h"))
	for at, dev := range map[*namespace]string{behind: "eth0", l.where("vpc-a", ""): deviceName(portPrefix, nic.ID)} {
		d, err := l.nl(at).LinkByName(dev)
		if err == nil {
			err = carries(ctx, l.nl(at), d.Attrs().Index)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	victim := l.hardware(l.where("vpc-a", client), "eth0")
	passes := func(frame []byte) bool {
		marker := ether(broadcast, me, unix.ETH_P_IP, ipv4("10.0.1.40", "10.0.1.99"))
		forger.send(frame)
		forger.send(marker)
		return router.heard(frame, marker)
	}
	for _, tt := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"its own", ether(broadcast, me, unix.ETH_P_IP, ipv4("10.0.1.40", clientIP)), true},
		{"another hardware address", ether(broadcast, net.HardwareAddr{2, 0, 0, 0, 0, 9}, unix.ETH_P_IP, ipv4("10.0.1.40", clientIP)), true},
		{"ARP of its own", arp(me, 2, me, "10.0.1.40", "10.0.1.40"), true},
		{"the victim's hardware address", ether(broadcast, victim, unix.ETH_P_IP, ipv4("10.0.1.40", clientIP)), false},
		{"another source", ether(broadcast, me, unix.ETH_P_IP, ipv4(clientIP, clientIP)), false},
		{"ARP for the gateway", arp(me, 2, me, gatewayIP, gatewayIP), false},
		{"ARP that names the victim's hardware address", arp(me, 2, victim, "10.0.1.40", "10.0.1.40"), false},
	} {
		if got := passes(tt.frame); got != tt.want {
			t.Errorf("%s passes: %v, want %v", tt.name, got, tt.want)
		}
	}

	next := l.crash()
	next.ensure(n)
	lent(next)
	third := next.crash() // and now it is not wanted any more
	if err := third.Sweep(ctx, nil); err != nil {
		t.Fatal(err)
	}
	back()
}

func TestInterfaceRefused(t *testing.T) {
	l := hostLab(t)
	host := l.nl(l.home)
	name := "nic" + l.Installation
	dev, _ := l.nic(name, "10.0.1.40")
	nic := Attachment{ID: "att-nic", Kind: Interface, VSwitch: "vsw-h", Address: netip.MustParseAddr("10.0.1.40"), Name: name, Index: dev.Attrs().Index}
	refuse := func(what, want string, a Attachment) {
		t.Helper()
		bad, err := l.Ensure(t.Context(), with(example("vpc-a"), a))
		if err != nil || bad[a.ID] == nil || !strings.Contains(bad[a.ID].Error(), want) {
			t.Errorf("%s: %v %v, want %q", what, bad, err, want)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	other := nic
	other.Name = "another"
	refuse("another name", "was offered", other)
	other = nic
	other.Index = 1
	other.Name = "lo"
	refuse("lo", "loopback", other)
	other.Index = 1 << 20
	refuse("no such index", "device", other)

	at := address(nic.Index, netip.MustParsePrefix("198.51.100.1/32"))
	do(host.AddrAdd(nil, at))
	refuse("a host address", "carries the host's address 198.51.100.1", nic)
	do(host.AddrDel(nil, at))

	metric := 1 << 30 // never taken, beside the real one
	def := &netlink.Route{LinkIndex: nic.Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Scope: netlink.SCOPE_LINK, Priority: metric}
	do(host.RouteAdd(def))
	refuse("a default route", "default route", nic)
	do(host.RouteDel(def))

	upper := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "v" + l.Installation, ParentIndex: nic.Index, TxQLen: -1}, Mode: netlink.MACVLAN_MODE_BRIDGE}
	if err := host.LinkAdd(upper); err != nil {
		t.Logf("this kernel has no macvlan: %v", err)
	} else {
		refuse("what a macvlan stands on", "stands on", nic)
		do(host.LinkDel(upper))
	}

	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "b" + l.Installation, TxQLen: -1}}
	do(host.LinkAdd(bridge))
	t.Cleanup(func() { _ = host.LinkDel(bridge) })
	do(host.LinkSetMaster(dev, bridge))
	refuse("a bridge's port", "a port of another device", nic)
	do(host.LinkSetNoMaster(dev))

	l.ensure(with(example("vpc-a"), nic)) // with none of that it is fine
}
