package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const rangeSize = 100

// ranged runs a test with both forwarders in real namespaces, on a listener for the
// ports from w.port on, whose servers get the port that the client used.
func ranged(t *testing.T, test func(w *world)) {
	t.Helper()
	for _, portable := range []bool{false, true} {
		t.Run(fmt.Sprintf("portable %v", portable), func(t *testing.T) {
			d := namespaces(t)
			w := newWorld(t, d, startWith(t, proxy.Config{Driver: d, Dir: t.TempDir(), Portable: portable}))
			w.listeners(w.rangeListener())
			g := w.shall.ServerGroups[group]
			g.AnyPort = true
			w.shall.ServerGroups[group] = g
			w.apply()
			test(w)
		})
	}
}

func (w *world) rangeListener() proxy.Listener {
	return proxy.Listener{ID: "lsn-1", Protocol: verdict.TCP, From: w.port, To: w.port + rangeSize, ServerGroup: group}
}

func (w *world) listeners(list ...proxy.Listener) {
	b := w.shall.LoadBalancers[balancer]
	b.Listeners = list
	w.shall.LoadBalancers[balancer] = b
}

// named runs the nth server at a port: it says its number and port, then echoes.
func (w *world) named(n int, port uint16) {
	w.Helper()
	ln, err := w.driver.Listen(w.Context(), provider, netip.AddrPortFrom(backend(n), port))
	if err != nil {
		w.Fatal(err)
	}
	proxytest.Serve(w, ln, func(c *net.TCPConn) {
		_, _ = fmt.Fprintf(c, "%02d %05d", n, port)
		proxytest.Echo(c)
	})
}

func (w *world) dialIn(network string, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(w.Context(), soon)
	defer cancel()
	c, err := w.driver.DialFrom(ctx, network, client, to)
	if err == nil {
		w.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(soon))
	}
	return c, err
}

// hears connects and reads the name of a server.
func (w *world) hears(network string, at netip.Addr, port uint16) (c net.Conn, name string) {
	w.Helper()
	c, err := w.dialIn(network, netip.AddrPortFrom(at, port))
	if err != nil {
		w.Fatal(err)
	}
	b := make([]byte, len("01 00080"))
	if _, err := io.ReadFull(c, b); err != nil {
		w.Fatal(err)
	}
	return c, string(b)
}

func (w *world) isRefused(network string, at netip.Addr, port uint16) {
	w.Helper()
	if _, err := w.dialIn(network, netip.AddrPortFrom(at, port)); !errors.Is(err, syscall.ECONNREFUSED) {
		w.Fatalf("%v:%d: got %v, want refused", at, port, err)
	}
}

func TestRange(t *testing.T) {
	ranged(t, func(w *world) {
		ports := []uint16{w.port, w.port + 1, w.port + 50, w.port + rangeSize}
		for _, port := range ports {
			w.named(1, port)
		}
		w.isRefused(consumer, epH, w.port)
		w.carry(endpoint, true)
		w.carrying(endpoint, true)
		var live []net.Conn
		for _, at := range []netip.Addr{epH, epI} {
			for _, port := range ports {
				c, name := w.hears(consumer, at, port)
				if want := fmt.Sprintf("01 %05d", port); name != want {
					w.Errorf("%v:%d leads to %q, want %q", at, port, name, want)
				}
				w.echoes(c, "hello")
				live = append(live, c)
			}
			w.isRefused(consumer, at, w.port-1)
			w.isRefused(consumer, at, w.port+rangeSize+1)
		}
		if st, err := w.engine.Status(w.Context()); err != nil || st.Listeners != 4 {
			w.Errorf("%d listeners, %v; want one for each zone of endpoint and load balancer", st.Listeners, err)
		}

		w.carry(endpoint, false)
		w.carrying(endpoint, false)
		for _, c := range live {
			w.isReset(c)
		}
		for _, port := range ports {
			w.isRefused(consumer, epH, port)
		}
		got := map[netip.AddrPort]int{}
		for _, r := range w.records(len(live)) {
			if r.Reason != proxy.ReasonRevoked || r.Source.Addr() != clientAt {
				w.Errorf("record %+v", r)
			}
			got[r.Address]++
		}
		for _, port := range ports {
			if got[netip.AddrPortFrom(epH, port)] != 1 {
				w.Errorf("records of port %d: %v", port, got)
			}
		}

		w.carry(endpoint, true)
		c, _ := w.hears(consumer, epI, ports[1])
		w.echoes(c, "once more")
	})
}

func TestRangeRefusals(t *testing.T) {
	ranged(t, func(w *world) {
		w.named(1, w.port)
		w.shall.Groups[firewall] = verdict.Group{ID: firewall, Rules: []verdict.Rule{
			{ID: "sgr-1", Priority: 2, Policy: verdict.Accept, Protocol: verdict.TCP, Peer: range16},
			{ID: "sgr-2", Priority: 1, Policy: verdict.Drop, Protocol: verdict.TCP, Peer: range16, From: w.port + 1, To: w.port + 1},
		}}
		w.carry(endpoint, true)
		w.carrying(endpoint, true)
		c, _ := w.hears(consumer, epH, w.port)
		w.echoes(c, "let in")
		for i, want := range []string{proxy.ReasonGroup, proxy.ReasonConnect} {
			at := netip.AddrPortFrom(epH, w.port+1+uint16(i))
			if c, err := w.dialIn(consumer, at); err == nil {
				w.isReset(c)
			} else if !errors.Is(err, syscall.ECONNRESET) {
				w.Fatalf("%v: got %v, want a reset", at, err)
			}
			records := w.records(i + 1)
			n := slices.IndexFunc(records, func(r proxy.Record) bool { return r.Address == at })
			if n < 0 || records[n].Reason != want || records[n].Action != proxy.ActionReject {
				w.Errorf("records of %v: %+v, want %s", at, records, want)
			}
		}
	})
}

// TestRangeOfTwoEndpoints: in one VPC, and in two with the same addresses.
func TestRangeOfTwoEndpoints(t *testing.T) {
	ranged(t, func(w *world) {
		const other, elsewhere = "ep-2", "ep-3"
		w.named(1, w.port+7)
		n := w.shall.Networks[consumer]
		n.ID, n.Number, n.Attachments = "vpc-twin", 3, maps.Clone(n.Attachments)
		w.shall.Networks[n.ID] = n
		at := netip.MustParseAddr("10.0.6.6")
		n = w.shall.Networks[consumer]
		n.Addresses = append(slices.Clone(n.Addresses), at)
		w.shall.Networks[consumer] = n
		ep := w.shall.Endpoints[endpoint]
		ep.ID = other
		ep.Zones = []proxy.EndpointZone{{Zone: zoneI, Address: at, Carry: true, LoadBalancer: balancer}}
		w.shall.Endpoints[other] = ep
		ep = w.shall.Endpoints[endpoint]
		ep.ID, ep.Network = elsewhere, "vpc-twin"
		w.shall.Endpoints[elsewhere] = ep
		for _, id := range []string{endpoint, other, elsewhere} {
			w.carry(id, true)
			w.carrying(id, true)
		}
		first, _ := w.hears(consumer, epH, w.port+7)
		second, _ := w.hears(consumer, at, w.port+7)
		third, _ := w.hears("vpc-twin", epH, w.port+7)
		w.carry(endpoint, false)
		w.isReset(first)
		w.isRefused(consumer, epH, w.port+7)
		w.echoes(second, "the other one stays")
		w.echoes(third, "and the twin")
		w.hears(consumer, at, w.port+7)
		w.hears("vpc-twin", epH, w.port+7)
		if r := w.records(1)[0]; r.Address.Addr() != epH {
			w.Errorf("record %+v", r)
		}
	})
}

// TestRangeChanges: flows whose port is still wanted live on, others end.
func TestRangeChanges(t *testing.T) {
	ranged(t, func(w *world) {
		const stays, goes, comes = 10, 90, rangeSize + 10
		for _, n := range []uint16{stays, goes, comes} {
			w.named(1, w.port+n)
		}
		w.carry(endpoint, true)
		w.carrying(endpoint, true)
		kept, _ := w.hears(consumer, epH, w.port+stays)
		cut, _ := w.hears(consumer, epH, w.port+goes)

		l := w.rangeListener()
		l.To = w.port + 50
		second := proxy.Listener{ID: "lsn-2", Protocol: verdict.TCP, From: w.port + rangeSize, To: w.port + 2*rangeSize, ServerGroup: group}
		w.listeners(l, second)
		w.apply()
		w.isReset(cut)
		w.isRefused(consumer, epH, w.port+goes)
		w.echoes(kept, "still here")
		c, _ := w.hears(consumer, epH, w.port+comes)
		w.echoes(c, "new")

		// One port instead of the ranges, and a range again.
		l.Port, l.From, l.To = w.port+stays, 0, 0
		w.listeners(l)
		w.apply()
		w.isReset(c)
		w.echoes(kept, "still here")
		w.hears(consumer, epH, w.port+stays)
		w.isRefused(consumer, epH, w.port+comes)
		w.listeners(w.rangeListener())
		w.apply()
		w.echoes(kept, "still here")
		w.hears(consumer, epH, w.port+goes)
	})
}

// TestPortWinsOverRange: with both, of which the domain lets only one be, the
// engine still knows what it does.
func TestPortWinsOverRange(t *testing.T) {
	ranged(t, func(w *world) {
		w.named(1, w.port)
		w.named(1, w.port+1)
		w.named(2, w.port)
		w.shall.ServerGroups["sgp-2"] = proxy.ServerGroup{ID: "sgp-2", Servers: []proxy.Server{w.server(2, 100)}}
		one := proxy.Listener{ID: "lsn-2", Protocol: verdict.TCP, Port: w.port, ServerGroup: "sgp-2"}
		same := w.rangeListener()
		same.ID, same.ServerGroup, same.To = "lsn-3", "sgp-2", w.port+1
		w.listeners(w.rangeListener(), one, same)
		w.carry(endpoint, true)
		w.carrying(endpoint, true)
		for port, want := range map[uint16]string{w.port: fmt.Sprintf("02 %05d", w.port), w.port + 1: fmt.Sprintf("01 %05d", w.port+1)} {
			if _, name := w.hears(consumer, epH, port); name != want {
				w.Errorf("port %d leads to %q, want %q", port, name, want)
			}
		}
		w.observe("the fault", func(o proxy.Observations) bool {
			return len(o.Endpoints) > 0 && strings.Contains(o.Endpoints[0].Zones[0].Error, `"lsn-3"`)
		})
		w.listeners(w.rangeListener())
		w.apply()
		if _, name := w.hears(consumer, epH, w.port); name != fmt.Sprintf("01 %05d", w.port) {
			w.Errorf("without the listener, the port leads to %q", name)
		}
	})
}

// TestSecondConnection: a protocol like FTP's, whose second connection has to reach
// the server that named its port.
func TestSecondConnection(t *testing.T) {
	ranged(t, func(w *world) {
		g := w.shall.ServerGroups[group]
		g.Scheduler = proxy.SourceHash
		w.shall.ServerGroups[group] = g
		var servers []proxy.Server
		for n := 1; n <= 3; n++ {
			servers = append(servers, w.server(n, 100))
			for data := range uint16(10) {
				w.named(n, w.port+data)
			}
		}
		w.servers(servers...)
		w.carry(endpoint, true)
		w.carrying(endpoint, true)
		control, name := w.hears(consumer, epH, w.port)
		for data := range uint16(10) {
			if _, got := w.hears(consumer, epH, w.port+data); got[:2] != name[:2] {
				w.Errorf("data at port %d comes from server %s, control from %s", w.port+data, got[:2], name[:2])
			}
		}
		w.echoes(control, "bye")
	})
}

// TestAnyPort: every port of an address, also for servers without a range.
func TestAnyPort(t *testing.T) {
	ranged(t, func(w *world) {
		w.listeners(proxy.Listener{ID: "lsn-1", Protocol: verdict.TCP, From: 1, To: 65535, ServerGroup: group})
		w.carry(endpoint, true)
		w.carrying(endpoint, true)
		for _, port := range []uint16{1, 22, w.port, 65535} {
			w.named(1, port)
			if _, name := w.hears(consumer, epI, port); name != fmt.Sprintf("01 %05d", port) {
				w.Errorf("port %d leads to %q", port, name)
			}
		}
	})
}

// TestAnyPortOfOnePort: servers get the client's port behind an ordinary listener
// too, whatever theirs is.
func TestAnyPortOfOnePort(t *testing.T) {
	each(t, func(w *world) {
		g := w.shall.ServerGroups[group]
		g.AnyPort = true
		g.Servers = []proxy.Server{{ID: "srv-1", Zone: zoneH, Address: netip.AddrPortFrom(backend(1), 1), Weight: 100}}
		w.shall.ServerGroups[group] = g
		w.connected(proxytest.Echo)
		w.echoes(w.mustDial(epH), "hello")
	})
}

// TestRangesNeedNamespaces: without them the zone says so, and carries by what it
// can.
func TestRangesNeedNamespaces(t *testing.T) {
	t.Parallel()
	d := newFake()
	w := newWorld(t, d, start(t, d, t.TempDir()))
	zone := func(carrying bool) {
		w.observe("the fault", func(o proxy.Observations) bool {
			return len(o.Endpoints) == 1 && o.Endpoints[0].Version == w.shall.Endpoints[endpoint].Version &&
				!slices.ContainsFunc(o.Endpoints[0].Zones, func(z proxy.ZoneObserved) bool {
					return z.Carrying != carrying || !strings.Contains(z.Error, vpc.ErrNoRanges.Error())
				})
		})
	}
	w.listeners(w.rangeListener())
	w.carry(endpoint, true)
	zone(false)
	w.listeners(w.rangeListener(), proxy.Listener{ID: "lsn-2", Protocol: verdict.TCP, Port: w.port - 1, ServerGroup: group})
	w.carry(endpoint, true)
	zone(true)
}

// TestMSS: clients are told the largest segment, also after it has changed, which
// no flow notices.
func TestMSS(t *testing.T) {
	each(t, func(w *world) {
		mss := func(c *net.TCPConn) (n int) {
			w.Helper()
			raw, err := c.SyscallConn()
			if err == nil {
				err = errors.Join(err, raw.Control(func(fd uintptr) {
					var e error
					if n, e = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG); e != nil {
						w.Error(e)
					}
				}))
			}
			if err != nil {
				w.Fatal(err)
			}
			return n
		}
		w.connected(proxytest.Echo)
		wide := w.mustDial(epH)
		b := w.shall.LoadBalancers[balancer]
		for _, most := range []int{1000, 50} {
			b.Listeners = slices.Clone(b.Listeners)
			b.Listeners[0].MSS = most
			w.shall.LoadBalancers[balancer] = b
			w.apply()
			c := w.mustDial(epH)
			w.echoes(c, "hello")
			if got := mss(c); got > max(most, 88) {
				w.Errorf("segments of %d bytes, want at most %d", got, most)
			}
		}
		w.echoes(wide, "nothing noticed")
		if got := mss(wide); got <= 1000 {
			w.Errorf("segments of %d bytes without a limit", got)
		}
	})
}

// BenchmarkRangeOf1000 opens one more endpoint with a range beside a thousand.
func BenchmarkRangeOf1000(b *testing.B) {
	d := namespaces(b)
	w := newWorld(b, d, start(b, d, b.TempDir()))
	w.listeners(w.rangeListener())
	w.manyEndpoints(1000)
	n := w.shall.Networks[consumer]
	n.Addresses = slices.Clone(n.Addresses)
	for id, ep := range w.shall.Endpoints {
		if id != endpoint {
			n.Addresses = append(n.Addresses, ep.Zones[0].Address)
			ep.Carry = true
			w.shall.Endpoints[id] = ep
		}
	}
	w.shall.Networks[consumer] = n
	began := time.Now()
	w.apply()
	all := time.Since(began)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		w.bare(true)
		took = append(took, time.Since(began))
		b.StopTimer()
		w.bare(false)
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(all.Milliseconds()), "ms-for-1000")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
