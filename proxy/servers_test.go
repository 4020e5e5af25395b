package proxy_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
)

// regroup changes the server group and applies that.
func (w *world) regroup(change func(*proxy.ServerGroup)) {
	w.Helper()
	g := w.shall.ServerGroups[group]
	change(&g)
	w.shall.ServerGroups[group] = g
	w.apply()
}

func TestDrain(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		kept := w.mustDial(epH)
		w.echoes(kept, "before")
		server := w.shall.ServerGroups[group].Servers

		w.regroup(func(g *proxy.ServerGroup) { g.Servers, g.Drain = nil, 900 })
		w.echoes(kept, "while it is drained")
		w.resets(epI) // and nothing new goes there
		w.at = 0      // a control plane that starts again
		w.apply()
		w.echoes(kept, "told everything once more")

		w.regroup(func(g *proxy.ServerGroup) { g.Servers = server })
		w.echoes(kept, "back again")
		w.echoes(w.mustDial(epI), "a new one")

		w.regroup(func(g *proxy.ServerGroup) { g.Servers, g.Drain = nil, 1 })
		began := time.Now()
		w.echoes(kept, "for a second")
		w.isReset(kept)
		if took := time.Since(began); took < 900*time.Millisecond || took > 10*time.Second {
			w.Errorf("cut after %v, want 1 s", took)
		}
		if r := w.records(3)[2]; r.Reason != proxy.ReasonRemoved {
			w.Errorf("record %+v", r)
		}
	})
}

func TestFailClosed(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		w.regroup(func(g *proxy.ServerGroup) {
			g.FailClosed = true
			g.Health = proxy.HealthCheck{Enabled: true, Interval: 1, Timeout: 1, Port: freePort(w)}
		})
		w.health("srv-1", proxy.Unhealthy, "CONNECT_FAILED")
		w.resets(epH)
		if r := w.records(1)[0]; r.Reason != proxy.ReasonNoServer {
			w.Errorf("record %+v", r)
		}
	})
}

func TestUnhealthyServerKeepsItsFlows(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		port := freePort(w)
		checked := w.listen(backend(1), port)
		w.regroup(func(g *proxy.ServerGroup) {
			g.Health = proxy.HealthCheck{Enabled: true, Interval: 1, Timeout: 1, Port: port}
		})
		w.health("srv-1", proxy.Healthy, "")
		kept := w.mustDial(epH)
		w.echoes(kept, "before")
		_ = checked.Close()
		w.health("srv-1", proxy.Unhealthy, "CONNECT_FAILED")
		w.echoes(kept, "known dead, and kept")

		checked = w.listen(backend(1), port)
		w.health("srv-1", proxy.Healthy, "")
		w.regroup(func(g *proxy.ServerGroup) { g.ResetOnUnhealthy = true })
		w.echoes(kept, "still here")
		_ = checked.Close()
		w.isReset(kept)
		if r := w.records(1)[0]; r.Reason != proxy.ReasonUnhealthy {
			w.Errorf("record %+v", r)
		}
	})
}

// listen accepts connections in the provider's VPC and says nothing.
func (w *world) listen(at netip.Addr, port uint16) net.Listener {
	w.Helper()
	ln, err := w.driver.Listen(w.Context(), provider, netip.AddrPortFrom(at, port))
	if err != nil {
		w.Fatal(err)
	}
	proxytest.Serve(w, ln, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 1)) })
	return ln
}

// health waits until a server is observed so.
func (w *world) health(id string, h proxy.Health, reason string) {
	w.Helper()
	w.observe(id+" "+string(h), func(o proxy.Observations) bool {
		for _, s := range o.Servers {
			if s.ID == id && s.ServerGroup == group && s.Health == h && s.Reason == reason && !s.Since.IsZero() {
				return true
			}
		}
		return false
	})
}

func TestLimitsRefuse(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		kept := w.mustDial(epH)
		w.echoes(kept, "before there were limits")

		listener := func(change func(*proxy.Listener)) {
			lb := w.shall.LoadBalancers[balancer]
			lb.Listeners = slices.Clone(lb.Listeners)
			change(&lb.Listeners[0])
			w.shall.LoadBalancers[balancer] = lb
			w.apply()
		}
		listener(func(l *proxy.Listener) { l.MaxConnections = 2 })
		w.echoes(w.mustDial(epH), "the second")
		w.resets(epH)
		w.echoes(w.mustDial(epI), "in the other zone")
		listener(func(l *proxy.Listener) { l.MaxConnections, l.CPS = 0, 1 })
		w.echoes(w.mustDial(epH), "one a second")
		w.resets(epH)
		listener(func(l *proxy.Listener) { l.CPS = 0 })

		ep := w.shall.Endpoints[endpoint]
		ep.MaxConnections = 4 // over both zones: they are there already
		w.shall.Endpoints[endpoint] = ep
		w.apply()
		w.resets(epH)
		w.resets(epI)
		w.echoes(kept, "no limit cuts what is there")
		reasons := map[string]int{}
		for _, r := range w.records(4) {
			reasons[r.Reason]++
		}
		if reasons[proxy.ReasonMaxConnections] != 3 || reasons[proxy.ReasonCPS] != 1 {
			w.Errorf("reasons %v", reasons)
		}
		_ = kept.Close()
		w.records(5)
		w.echoes(w.mustDial(epH), "one left, one may come")
	})
}

// Flows come from every local address of the zone in turn, and one that has no free
// port is passed over.
func TestLocalAddresses(t *testing.T) {
	each(t, func(w *world) {
		local := []netip.Addr{netip.MustParseAddr("10.0.0.20"), netip.MustParseAddr("10.0.0.21")}
		n := w.shall.Networks[provider]
		n.Addresses = append(slices.Clone(n.Addresses), local...)
		w.shall.Networks[provider] = n
		lb := w.shall.LoadBalancers[balancer]
		lb.Zones = []proxy.LBZone{{Zone: zoneH, Address: lbH, Local: local}, {Zone: zoneI, Address: lbI}}
		w.shall.LoadBalancers[balancer] = lb
		peers := make(chan netip.AddrPort, 100)
		w.connected(func(c *net.TCPConn) {
			peers <- w.driver.Translate(provider, c.RemoteAddr().(*net.TCPAddr).AddrPort())
			proxytest.Echo(c)
		})
		from := func(at netip.Addr) netip.Addr {
			w.echoes(w.mustDial(at), "hello")
			return (<-peers).Addr()
		}
		count := map[netip.Addr]int{}
		for range 10 {
			count[from(epH)]++
		}
		if count[local[0]] != 5 || count[local[1]] != 5 {
			w.Errorf("flows came from %v", count)
		}
		if got := from(epI); got != lbI {
			w.Errorf("in a zone without local addresses they come from %v", got)
		}
	})
}

// With four ports in the provider's VPC four flows fit towards a server, and four
// more with a second local address. The next is refused, and says why; nothing else
// suffers, and it passes as soon as a port is free again.
func TestOutOfPortsInNamespaces(t *testing.T) {
	t.Parallel()
	d := namespaces(t)
	w := newWorld(t, d, start(t, d, ""))
	local := netip.MustParseAddr("10.0.0.20")
	n := w.shall.Networks[provider]
	n.Addresses = append(slices.Clone(n.Addresses), local)
	w.shall.Networks[provider] = n
	w.connected(proxytest.Echo)
	w.inside(provider, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40003"), 0)
	})
	var held []*net.TCPConn
	hold := func(count int) {
		w.Helper()
		for range count {
			c := w.mustDial(epH)
			w.echoes(c, "hello")
			held = append(held, c)
		}
	}
	hold(4)
	w.resets(epH)
	if r := w.records(1)[0]; r.Reason != proxy.ReasonPorts || r.Action != proxy.ActionReject || r.Server != "srv-1" {
		t.Errorf("record %+v", r)
	}
	lb := w.shall.LoadBalancers[balancer]
	lb.Zones = []proxy.LBZone{{Zone: zoneH, Address: lbH, Local: []netip.Addr{lbH, local}}, lb.Zones[1]}
	w.shall.LoadBalancers[balancer] = lb
	w.apply()
	hold(4)
	w.resets(epH)
	for _, c := range held {
		w.echoes(c, "nothing else suffers")
	}
	_ = held[0].SetLinger(0)
	_ = held[0].Close()
	w.records(3)
	hold(1)
}

// inside runs do on a thread in a network.
func (w *world) inside(network string, do func() error) {
	w.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		t, err := w.driver.Thread()
		if err == nil {
			defer t.Close()
			err = errors.Join(t.Enter(network), do(), t.Leave())
		}
		done <- err
	}()
	if err := <-done; err != nil {
		w.Fatal(err)
	}
}
