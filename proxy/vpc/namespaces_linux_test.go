package vpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestSameRangesTwice(t *testing.T) {
	l := newLab(t)
	for _, id := range []string{"vpc-a", "vpc-b"} {
		l.ensure(example(id))
		ln, err := l.Listen(t.Context(), id, addrPort(eniIP, 443))
		l.serve(ln, err, id)
	}
	for _, id := range []string{"vpc-a", "vpc-b"} {
		c, err := l.Dial(t.Context(), id, netip.MustParseAddr(eni2IP), addrPort(eniIP, 443))
		talk(t, c, err, id+" "+eni2IP)
		c, err = l.DialFrom(t.Context(), id, client, addrPort(eniIP, 443))
		talk(t, c, err, id+" "+clientIP)
	}
}

func TestRouting(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	ln, err := l.listenIn("vpc-a", far, farIP+":80")
	l.serve(ln, err, "far")
	ctx := t.Context()

	t.Run("between vSwitches", func(t *testing.T) {
		c, err := l.DialFrom(ctx, "vpc-a", client, addrPort(farIP, 80))
		talk(t, c, err, "far "+clientIP)
	})
	t.Run("from a load balancer's address in another vSwitch", func(t *testing.T) {
		c, err := l.Dial(ctx, "vpc-a", netip.MustParseAddr(eniIP), addrPort(farIP, 80))
		talk(t, c, err, "far "+eniIP)
	})
	t.Run("nobody listens", func(t *testing.T) {
		c, err := l.DialFrom(ctx, "vpc-a", client, addrPort(farIP, 81))
		refused(t, c, err, syscall.ECONNREFUSED)
		c, err = l.Dial(ctx, "vpc-a", netip.MustParseAddr(eniIP), addrPort(eniIP, 60000))
		refused(t, c, err, syscall.ECONNREFUSED)
	})
	t.Run("nothing leaves", func(t *testing.T) {
		for _, to := range []string{"192.0.2.2", "10.0.3.3"} {
			c, err := l.DialFrom(ctx, "vpc-a", client, addrPort(to, 80))
			refused(t, c, err, syscall.ENETUNREACH)
			c, err = l.Dial(ctx, "vpc-a", netip.MustParseAddr(eniIP), addrPort(to, 80))
			refused(t, c, err, syscall.ENETUNREACH)
		}
	})
	t.Run("deadline and cancellation", func(t *testing.T) {
		gone, stop := context.WithCancel(ctx)
		stop()
		c, err := l.DialFrom(gone, "vpc-a", client, addrPort("10.0.1.200", 80))
		refused(t, c, err, context.Canceled)
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		c, err = l.DialFrom(short, "vpc-a", client, addrPort("10.0.1.200", 80)) // nobody answers ARP
		refused(t, c, err, context.DeadlineExceeded)
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
			t.Errorf("%v is no time-out", err)
		}
	})
	t.Run("of what is not there", func(t *testing.T) {
		c, err := l.DialFrom(ctx, "vpc-b", client, addrPort(farIP, 80))
		refused(t, c, err, ErrNoAttachment, ErrNoNetwork)
		c, err = l.DialFrom(ctx, "vpc-a", "att-x", addrPort(farIP, 80))
		refused(t, c, err, ErrNoAttachment)
		c, err = l.Dial(ctx, "vpc-b", netip.MustParseAddr(eniIP), addrPort(farIP, 80))
		refused(t, c, err, ErrNoNetwork)
		c, err = l.Dial(ctx, "vpc-a", netip.MustParseAddr("10.0.1.6"), addrPort(farIP, 80))
		refused(t, c, err, syscall.EADDRNOTAVAIL)
		if ln, err := l.Listen(ctx, "vpc-a", addrPort("10.0.1.6", 80)); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("listen on a foreign address: %v %v", ln, err)
		}
	})
}

func TestUDP(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	speaksUDP(t, l, "vpc-a", netip.MustParseAddr(eni2IP), addrPort(eniIP, 53))
	if c, err := l.DialUDP(t.Context(), "vpc-a", netip.MustParseAddr("10.0.1.6"), addrPort(eniIP, 53)); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("from a foreign address: %v, %v", c, err)
	}
}

// TestSocketOnly: published ports and host services have no device.
func TestSocketOnly(t *testing.T) {
	l := newLab(t)
	n := with(example("vpc-a"),
		Attachment{ID: "att-pub", Kind: PublishedPort, VSwitch: "vsw-h", Address: netip.MustParseAddr(eniIP)},
		Attachment{ID: "att-host", Kind: HostService, VSwitch: "vsw-h", Host: netip.MustParseAddrPort("127.0.0.1:5432")})
	l.ensure(n)
	ln, err := l.listenIn("vpc-a", far, farIP+":80")
	l.serve(ln, err, "far")
	c, err := l.DialFrom(t.Context(), "vpc-a", "att-pub", addrPort(farIP, 80))
	talk(t, c, err, "far "+eniIP)
	c, err = l.DialFrom(t.Context(), "vpc-a", "att-host", addrPort(farIP, 80))
	refused(t, c, err, ErrNoInside)
	if err := l.Start(t.Context(), "vpc-a", "att-pub", Command{Args: []string{"true"}}); !errors.Is(err, ErrNoInside) {
		t.Errorf("start in a published port: %v", err)
	}
}

func TestCustomRoute(t *testing.T) {
	const behind = "172.16.5.5"
	l := newLab(t)
	n := example("vpc-a")
	n.Routes = []Route{{To: netip.MustParsePrefix("172.16.0.0/12"), Attachment: far}, {To: netip.MustParsePrefix("0.0.0.0/0"), Attachment: mallory}}
	l.ensure(n)
	router := l.nl(l.where("vpc-a", far)) // what is behind it is itself, under another address
	lo, err := router.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := router.AddrAdd(lo, address(lo.Attrs().Index, netip.MustParsePrefix(behind+"/32"))); err != nil {
		t.Fatal(err)
	}
	ln, err := l.listenIn("vpc-a", far, behind+":80")
	l.serve(ln, err, "behind")
	c, err := l.DialFrom(t.Context(), "vpc-a", client, addrPort(behind, 80))
	talk(t, c, err, "behind "+clientIP)
	c, err = l.Dial(t.Context(), "vpc-a", netip.MustParseAddr(eniIP), addrPort(behind, 80))
	talk(t, c, err, "behind "+eniIP)

	l.ensure(without1(n, far)) // a blackhole now, and not the wider route
	if got := l.routeTo("vpc-a", "172.16.0.0/12"); got.Type != unix.RTN_BLACKHOLE {
		t.Errorf("without its attachment the route is %v", got)
	}
	l.ensure(n)
	if got := l.routeTo("vpc-a", "172.16.0.0/12"); got.Type != unix.RTN_UNICAST || got.Gw.String() != farIP {
		t.Errorf("with its attachment again the route is %v", got)
	}
	n.Routes = n.Routes[:1]
	l.ensure(n)
	if got := l.routeTo("vpc-a", "0.0.0.0/0"); got.Type != 0 {
		t.Errorf("the deleted route is %v", got)
	}
	n.Routes = nil
	l.ensure(n)
	c, err = l.DialFrom(t.Context(), "vpc-a", client, addrPort("172.16.7.7", 80))
	refused(t, c, err, syscall.ENETUNREACH)
}

func (l *lab) routeTo(network, to string) netlink.Route {
	l.t.Helper()
	routes, err := l.nl(l.where(network, "")).RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: ours}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, r := range routes {
		if prefixOf(r.Dst).String() == to {
			return r
		}
	}
	return netlink.Route{}
}

// TestChanges edits one network step by step; a flow that no step names lives on.
func TestChanges(t *testing.T) {
	l := newLab(t)
	n := example("vpc-a")
	l.ensure(n)
	ln, err := l.Listen(t.Context(), "vpc-a", addrPort(eniIP, 443))
	l.serve(ln, err, "eni")
	flow, err := l.DialFrom(t.Context(), "vpc-a", client, addrPort(eniIP, 443))
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	_ = flow.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fscanln(flow, new(string), new(string)); err != nil {
		t.Fatal(err)
	}
	alive := func(step string) {
		t.Helper()
		if _, err := io.WriteString(flow, "x"); err != nil {
			t.Fatalf("after %s: %v", step, err)
		}
		if _, err := io.ReadFull(flow, make([]byte, 1)); err != nil {
			t.Fatalf("after %s: %v", step, err)
		}
	}
	reach := func(attachment, ip string) {
		t.Helper()
		ln, err := l.listenIn("vpc-a", attachment, ip+":80")
		l.serve(ln, err, attachment)
		c, err := l.DialFrom(t.Context(), "vpc-a", client, addrPort(ip, 80))
		talk(t, c, err, attachment+" "+clientIP)
	}

	n = with(n, managed("att-new", "vsw-i", "10.0.2.20"))
	l.ensure(n)
	alive("an attachment more")
	reach("att-new", "10.0.2.20")

	n = with(n, managed("att-new", "vsw-i", "10.0.2.21"))
	l.ensure(n)
	alive("another address")
	reach("att-new", "10.0.2.21")

	n = with(n, managed("att-new", "vsw-h", "10.0.1.21"))
	l.ensure(n)
	alive("another vSwitch")
	reach("att-new", "10.0.1.21")

	n.VSwitches = append(n.VSwitches, VSwitch{ID: "vsw-j", CIDR: netip.MustParsePrefix("10.0.3.0/24")})
	n.Addresses = append(n.Addresses, netip.MustParseAddr("10.0.3.5"))
	n = with(n, managed("att-new", "vsw-j", "10.0.3.21"))
	l.ensure(n)
	alive("a vSwitch more")
	reach("att-new", "10.0.3.21")

	n.VSwitches, n.Addresses = n.VSwitches[:2], n.Addresses[:2]
	n = without1(n, "att-new")
	l.ensure(n)
	alive("a vSwitch less")
	c, err := l.DialFrom(t.Context(), "vpc-a", client, addrPort("10.0.3.21", 80))
	refused(t, c, err, syscall.ENETUNREACH)
	c, err = l.DialFrom(t.Context(), "vpc-a", client, addrPort("10.0.3.5", 80))
	refused(t, c, err, syscall.ENETUNREACH)
	c, err = l.DialFrom(t.Context(), "vpc-a", "att-new", addrPort(eniIP, 443))
	refused(t, c, err, ErrNoAttachment)
}

// TestBadAttachments: each is reported by itself, and the rest stands.
func TestBadAttachments(t *testing.T) {
	l := newLab(t)
	n := with(example("vpc-a"),
		managed("att-gateway", "vsw-h", gatewayIP),
		managed("att-outside", "vsw-h", farIP),
		managed("att-eni", "vsw-h", eniIP),
		managed("att-nowhere", "vsw-z", "10.0.9.9"),
		managed("att/../../x", "vsw-h", "10.0.1.30"),
		Attachment{ID: "att-adopted", Kind: Adopted, VSwitch: "vsw-h", Address: netip.MustParseAddr("10.0.1.31"), Path: "/proc/self/status", Inode: 1})
	for range 2 { // errors are answered each time
		bad, err := l.Ensure(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		for id := range n.Attachments {
			if want := !slices.Contains([]string{client, mallory, far}, id); (bad[id] != nil) != want {
				t.Errorf("%s: %v", id, bad[id])
			}
		}
	}
	ln, err := l.Listen(t.Context(), "vpc-a", addrPort(eniIP, 443))
	l.serve(ln, err, "eni")
	c, err := l.DialFrom(t.Context(), "vpc-a", client, addrPort(eniIP, 443))
	talk(t, c, err, "eni "+clientIP)

	for name, bad := range map[string]Network{
		"a path as its id": {ID: "../vpc"},
		"an IPv6 range":    {ID: "vpc-b", CIDRs: prefixes("fd00::/64")},
		"a /31":            {ID: "vpc-b", VSwitches: []VSwitch{{ID: "v", CIDR: netip.MustParsePrefix("10.0.0.0/31")}}},
	} {
		if _, err := l.Ensure(t.Context(), bad); err == nil {
			t.Errorf("a network with %s was made", name)
		}
	}
}

// TestEnsureTrustsAndRepairLooks breaks everything behind the driver's back.
func TestEnsureTrustsAndRepairLooks(t *testing.T) {
	l := newLab(t)
	n := example("vpc-a")
	n.Routes = []Route{{To: netip.MustParsePrefix("172.16.0.0/12"), Attachment: far}}
	l.ensure(n)
	router := l.where("vpc-a", "")
	works := func() {
		t.Helper()
		ln, err := l.listenIn("vpc-a", far, farIP+":80")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for _, dial := range []func() (net.Conn, error){
			func() (net.Conn, error) { return l.DialFrom(ctx, "vpc-a", client, addrPort(farIP, 80)) },
			func() (net.Conn, error) { return l.Dial(ctx, "vpc-a", netip.MustParseAddr(eniIP), addrPort(farIP, 80)) },
		} {
			c, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		if got := l.routeTo("vpc-a", "172.16.0.0/12"); got.Gw.String() != farIP {
			t.Errorf("the custom route is %v", got)
		}
	}
	works()
	del := func(ns *namespace, device string) {
		t.Helper()
		h := l.nl(ns)
		dev, err := h.LinkByName(device)
		if err == nil {
			err = h.LinkDel(dev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	down := func(ns *namespace, device string) {
		t.Helper()
		h := l.nl(ns)
		dev, err := h.LinkByName(device)
		if err == nil {
			err = h.LinkSetDown(dev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, harm := range map[string]func(){
		"port deleted":          func() { del(router, deviceName(portPrefix, client)) },
		"inner end deleted":     func() { del(l.where("vpc-a", client), "eth0") },
		"inner end down":        func() { down(l.where("vpc-a", client), "eth0") },
		"bridge deleted":        func() { del(router, deviceName(bridgePrefix, "vsw-i")) },
		"bridge down":           func() { down(router, deviceName(bridgePrefix, "vsw-h")) },
		"port down":             func() { down(router, deviceName(portPrefix, far)) },
		"lo of the router down": func() { down(router, "lo") },
		"address gone": func() {
			if err := l.nl(router).RouteDel(localRoute(netip.MustParseAddr(eniIP))); err != nil {
				t.Fatal(err)
			}
		},
		"inner address changed": func() {
			h := l.nl(l.where("vpc-a", client))
			dev, err := h.LinkByName("eth0")
			if err != nil {
				t.Fatal(err)
			}
			err = errors.Join(h.AddrDel(dev, address(dev.Attrs().Index, netip.MustParsePrefix(clientIP+"/24"))),
				h.AddrAdd(dev, address(dev.Attrs().Index, netip.MustParsePrefix("10.0.1.11/24"))))
			if err != nil {
				t.Fatal(err)
			}
		},
		"everything deleted": func() {
			del(router, deviceName(bridgePrefix, "vsw-h"))
			del(router, deviceName(bridgePrefix, "vsw-i"))
			del(router, deviceName(portPrefix, client))
			del(router, deviceName(portPrefix, far))
		},
	} {
		t.Run(name, func(t *testing.T) {
			harm()
			l.repair("vpc-a")
			works()
		})
	}
	del(router, deviceName(portPrefix, client))
	l.ensure(n) // looks at nothing
	if dev, err := l.nl(router).LinkByName(deviceName(portPrefix, client)); err == nil {
		t.Errorf("Ensure of an unchanged network looked at the machine and made %s", dev.Attrs().Name)
	}
}

// crash forgets everything as a killed engine does, and returns the next one.
func (l *lab) crash() *lab {
	l.t.Helper()
	if l.pins == nil {
		l.t.Skip("in a user namespace nothing outlives its engine")
	}
	next := openLab(l.t, l.Installation)
	l.Close()
	return next
}

func TestAdoption(t *testing.T) {
	l := newLab(t)
	n := example("vpc-a")
	n.Routes = []Route{{To: netip.MustParsePrefix("172.16.0.0/12"), Attachment: far}}
	n = with(n, managed("att-old", "vsw-h", "10.0.1.30"), managed("att-moved", "vsw-h", "10.0.1.31"))
	n.Addresses = append(n.Addresses, netip.MustParseAddr("10.0.1.99"))
	l.ensure(n)
	l.ensure(example("vpc-b"))
	inodes := func(l *lab) []uint64 {
		return []uint64{l.where("vpc-a", "").inode, l.where("vpc-a", client).inode, l.where("vpc-a", far).inode}
	}
	before := inodes(l)
	flow := make(chan net.Conn, 1) // inside the attachments, so no engine is in it
	ln, err := l.listenIn("vpc-a", far, farIP+":80")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, _ := ln.Accept()
		flow <- c
	}()
	c, err := l.DialFrom(t.Context(), "vpc-a", client, addrPort(farIP, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer := <-flow
	defer peer.Close()
	ln.Close()

	next := l.crash()
	n = without1(n, "att-old")
	n = with(n, managed("att-moved", "vsw-i", "10.0.2.31"))
	n.Addresses = n.Addresses[:2]
	if err := next.Sweep(t.Context(), map[string]Network{"vpc-a": n}); err != nil {
		t.Fatal(err)
	}
	next.ensure(n)
	if after := inodes(next); !slices.Equal(before, after) {
		t.Errorf("namespaces were %v and are %v", before, after)
	}
	pinned, err := next.pins.names("")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range pinned {
		if strings.Contains(name, "vpc-b") || strings.Contains(name, "att-old") {
			t.Errorf("%s was not swept away", name)
		}
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_ = peer.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
		t.Fatalf("a flow between attachments broke: %v", err)
	}
	ln2, err := next.listenIn("vpc-a", "att-moved", "10.0.2.31:80")
	next.serve(ln2, err, "moved")
	c2, err := next.DialFrom(t.Context(), "vpc-a", client, addrPort("10.0.2.31", 80))
	talk(t, c2, err, "moved "+clientIP)
	if got := next.routeTo("vpc-a", "172.16.0.0/12"); got.Gw.String() != farIP {
		t.Errorf("the custom route is %v", got)
	}
	if ln, err := next.Listen(t.Context(), "vpc-a", addrPort("10.0.1.99", 80)); err == nil {
		ln.Close()
		t.Error("an address of the earlier engine's is still there")
	}
}

// TestSweepKeepsToItself: another installation's networks are not its business.
func TestSweepKeepsToItself(t *testing.T) {
	a, b := newLab(t), newLab(t)
	a.ensure(example("vpc-a"))
	b.ensure(example("vpc-a"))
	if err := a.Sweep(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	ln, err := b.Listen(t.Context(), "vpc-a", addrPort(eniIP, 443))
	b.serve(ln, err, "b")
	c, err := b.DialFrom(t.Context(), "vpc-a", client, addrPort(eniIP, 443))
	talk(t, c, err, "b "+clientIP)
	if _, err := a.Listen(t.Context(), "vpc-a", addrPort(eniIP, 443)); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("swept, and yet: %v", err)
	}
}

func TestRemoveIsIdempotent(t *testing.T) {
	l := newLab(t)
	for range 2 {
		l.ensure(example("vpc-a"))
		for range 2 {
			if err := l.Remove(t.Context(), "vpc-a"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Remove(t.Context(), "../x"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Repair(t.Context(), "vpc-a"); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("repair of a removed network: %v", err)
	}
}

// TestManyAtOnce runs everything beside everything; the race detector listens.
func TestManyAtOnce(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	ids := []string{"vpc-a", "vpc-b", "vpc-c"}
	for _, id := range ids {
		l.ensure(example(id))
		ln, err := l.Listen(ctx, id, addrPort(eniIP, 443))
		l.serve(ln, err, id)
	}
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			for range 50 {
				c, err := l.DialFrom(ctx, id, client, addrPort(eniIP, 443))
				if err != nil {
					t.Errorf("dial in %s: %v", id, err)
					return
				}
				c.Close()
			}
		})
		wg.Go(func() {
			n := example(id)
			for k := range 20 {
				n.Addresses = append(n.Addresses, netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + k)}))
				if _, err := l.Ensure(ctx, n); err != nil {
					t.Errorf("ensure %s: %v", id, err)
				}
			}
		})
		wg.Go(func() {
			for range 3 {
				id := fmt.Sprintf("vpc-x%d", i%2) // two of the three meet in one network
				_, _ = l.Ensure(ctx, example(id))
				if c, err := l.DialFrom(ctx, id, client, addrPort(eniIP, 1)); err == nil {
					c.Close()
				}
				if err := l.Remove(ctx, id); err != nil {
					t.Errorf("remove %s: %v", id, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestClosed(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	if err := l.Remove(t.Context(), "vpc-a"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Ensure(t.Context(), example("vpc-a")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ensure: %v", err)
	}
}

func BenchmarkEnsure(b *testing.B) {
	const addresses = 5000
	big := func() Network {
		n := example("vpc-a")
		n.VSwitches = append(n.VSwitches, VSwitch{ID: "vsw-x", CIDR: netip.MustParsePrefix("10.0.128.0/17")})
		for i := range addresses {
			n.Addresses = append(n.Addresses, netip.AddrFrom4([4]byte{10, 0, byte(128 + i/250), byte(2 + i%250)}))
		}
		return n
	}
	for name, change := range map[string]func(n *Network, i int){
		"unchanged":       func(*Network, int) {},
		"another address": func(n *Network, i int) { n.Addresses[addresses] = netip.AddrFrom4([4]byte{10, 0, byte(200 + i%2), 1}) },
		"another attachment": func(n *Network, i int) {
			delete(n.Attachments, "att-x")
			if i%2 == 0 {
				n.Attachments["att-x"] = managed("att-x", "vsw-h", "10.0.1.77")
			}
		},
		"another route": func(n *Network, i int) {
			n.Routes = []Route{{To: netip.MustParsePrefix("172.16.0.0/12"), Attachment: []string{far, client}[i%2]}}
		},
	} {
		b.Run(fmt.Sprintf("%s of %d", name, addresses), func(b *testing.B) {
			l := newLab(b)
			n := big()
			l.ensure(n)
			for i := 0; b.Loop(); i++ {
				change(&n, i)
				l.ensure(n)
			}
		})
	}
}

func BenchmarkDial(b *testing.B) {
	l := newLab(b)
	l.ensure(example("vpc-a"))
	ln, err := l.Listen(b.Context(), "vpc-a", addrPort(eniIP, 443))
	l.serve(ln, err, "eni")
	for b.Loop() {
		c, err := l.Dial(b.Context(), "vpc-a", netip.MustParseAddr(eni2IP), addrPort(eniIP, 443))
		if err != nil {
			b.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}
