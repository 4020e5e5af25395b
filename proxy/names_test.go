package proxy_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
)

// book is a resolver that a test writes.
type book struct {
	mu    sync.Mutex
	names map[string][]netip.Addr // none: it does not resolve
	asked map[string]int
	turn  chan struct{} // closed and replaced after each lookup
}

func newBook() *book {
	return &book{names: map[string][]netip.Addr{}, asked: map[string]int{}, turn: make(chan struct{})}
}

func (b *book) write(name string, addresses ...netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names[name] = addresses
}

func (b *book) lookup(_ context.Context, name string) ([]netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[name]++
	close(b.turn)
	b.turn = make(chan struct{})
	if len(b.names[name]) == 0 {
		return nil, errors.New("no such host")
	}
	return b.names[name], nil
}

// next waits until a name is looked up once more.
func (b *book) next(tb testing.TB, name string) {
	tb.Helper()
	b.mu.Lock()
	at := b.asked[name]
	for b.asked[name] == at {
		turn := b.turn
		b.mu.Unlock()
		select {
		case <-turn:
		case <-tb.Context().Done():
			tb.Fatal("no lookup")
		}
		b.mu.Lock()
	}
	b.mu.Unlock()
}

func TestServersByName(t *testing.T) {
	t.Parallel()
	const name = "orders.example.com"
	b, d := newBook(), newFake()
	e, err := proxy.New(proxy.Config{Driver: d, Installation: "test", Log: quiet(t), Lookup: b.lookup})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	w := newWorld(t, d, e)
	called := func(id, name string) proxy.Server {
		return proxy.Server{ID: id, Zone: zoneH, Name: name, Address: netip.AddrPortFrom(netip.Addr{}, w.port), Weight: 10}
	}
	w.servers(called("srv-1", name))
	w.apply()
	w.carry(endpoint, true)
	w.carrying(endpoint, true)
	w.health("srv-1", proxy.Unhealthy, "NAME_UNRESOLVED")
	w.resets(epH)

	for n := range 2 {
		w.serve(1+n, func(c *net.TCPConn) {
			_, _ = c.Write([]byte{byte('1' + n)})
			proxytest.Echo(c)
		})
	}
	ask := func() (*net.TCPConn, byte) {
		w.Helper()
		c := w.mustDial(epH)
		one := make([]byte, 1)
		if _, err := c.Read(one); err != nil {
			w.Fatal(err)
		}
		return c, one[0]
	}
	b.write(name, backend(1), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("192.0.2.1"))
	w.health("srv-1", proxy.Unknown, "")
	var kept *net.TCPConn
	for range 6 { // none of the others is ever tried: the one that is in the VPC has every flow
		var by byte
		if kept, by = ask(); by != '1' {
			t.Fatalf("server %c answered", by)
		}
	}

	b.write(name) // it fails, and nothing changes
	b.next(t, name)
	w.echoes(kept, "the last good answer")

	b.write(name, backend(2), backend(1))
	b.next(t, name)
	for seen := map[byte]bool{}; len(seen) < 2; {
		_, by := ask()
		seen[by] = true
	}
	w.regroup(func(g *proxy.ServerGroup) { g.Health = proxy.HealthCheck{Enabled: true, Interval: 1, Timeout: 1} })
	w.health("srv-1", proxy.Healthy, "")

	b.write(name, backend(2))
	b.next(t, name)
	w.isReset(kept)
	w.servers(w.server(2, 1))
	w.apply()
	if _, by := ask(); by != '2' {
		t.Fatalf("server %c answered", by)
	}
}

// A name leads nowhere but into the load balancer's VPC.
func TestNamesAreConfined(t *testing.T) {
	t.Parallel()
	b, d := newBook(), newFake()
	e, err := proxy.New(proxy.Config{Driver: d, Installation: "test", Log: quiet(t), Lookup: b.lookup})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	w := newWorld(t, d, e)
	refused := map[string]string{
		"srv-loopback": "127.0.0.1", "srv-link": "169.254.169.254", "srv-multicast": "224.0.0.1", "srv-none": "0.0.0.0",
		"srv-six": "::1", "srv-mapped": "::ffff:127.0.0.1", "srv-outside": "192.0.2.1", "srv-broadcast": "255.255.255.255",
	}
	var list []proxy.Server
	for id, at := range refused {
		b.write(id+".example.com", netip.MustParseAddr(at))
		list = append(list, proxy.Server{ID: id, Name: id + ".example.com", Address: netip.AddrPortFrom(netip.Addr{}, w.port), Weight: 1})
	}
	b.write("srv-host.example.com", backend(1))
	refused["srv-host"] = ""
	list = append(list, proxy.Server{ID: "srv-host", Name: "srv-host.example.com", Host: true, Weight: 1})
	w.servers(list...)
	g := w.shall.ServerGroups[group]
	g.Health = proxy.HealthCheck{Enabled: true, Interval: 1, Timeout: 1}
	w.shall.ServerGroups[group] = g
	w.apply()
	w.carry(endpoint, true)
	for id := range refused {
		w.health(id, proxy.Unhealthy, "NAME_REFUSED")
	}
	w.resets(epH)
	if r := w.records(1)[0]; r.Reason != proxy.ReasonNoServer {
		t.Errorf("record %+v", r)
	}
}
