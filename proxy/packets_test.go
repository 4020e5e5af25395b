package proxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	proxyproto "github.com/pires/go-proxyproto"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// again is how long a client of UDP waits before it says something once more.
const again = 100 * time.Millisecond

// packets makes the world's listener, and its rule, one of UDP. Servers run from
// the first on and do what serve does.
func (w *world) packets(serve func(n int, c *net.UDPConn), change func(*proxy.Listener), servers ...proxy.Server) *world {
	w.Helper()
	b := w.shall.LoadBalancers[balancer]
	l := proxy.Listener{ID: "lsn-1", Protocol: verdict.UDP, Port: w.port, ServerGroup: group}
	if change != nil {
		change(&l)
	}
	b.Listeners = []proxy.Listener{l}
	w.shall.LoadBalancers[balancer] = b
	w.shall.Groups[firewall] = verdict.Group{ID: firewall, Rules: []verdict.Rule{
		{ID: "sgr-1", Priority: 1, Policy: verdict.Accept, Protocol: verdict.UDP, Peer: range16},
	}}
	if len(servers) > 0 {
		w.servers(servers...)
	}
	w.apply()
	for n := range max(len(servers), 1) {
		serve(n+1, w.packetServer(n+1))
	}
	w.carry(endpoint, true)
	w.carrying(endpoint, true)
	return w
}

// packetServer is the socket of the nth server.
func (w *world) packetServer(n int) *net.UDPConn {
	w.Helper()
	return w.bind(provider, netip.AddrPortFrom(backend(n), w.port))
}

func (w *world) bind(network string, at netip.AddrPort) *net.UDPConn {
	w.Helper()
	fd, err := w.driver.Bind(w.Context(), network, at, vpc.SocketOptions{Packet: true})
	if err != nil {
		w.Fatal(err)
	}
	c, err := packetConn(fd)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) echoPackets(_ int, c *net.UDPConn) { proxytest.EchoPackets(w, c) }

// numbered is a server that answers with its number.
func (w *world) numbered(n int, c *net.UDPConn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			_, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(fmt.Append(nil, n), from)
			}
		}
	})
	w.Cleanup(func() {
		_ = c.Close()
		wg.Wait()
	})
}

// dialPackets is a client's socket.
func (w *world) dialPackets(at netip.Addr) *net.UDPConn {
	w.Helper()
	from := epI
	if at == epI {
		from = epH
	}
	c, err := w.driver.DialUDP(w.Context(), consumer, from, netip.AddrPortFrom(at, w.port))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	return c.(*net.UDPConn)
}

// asks sends d, again and again, until there is an answer.
func (w *world) asks(c *net.UDPConn, d []byte) []byte {
	w.Helper()
	got := make([]byte, 64<<10)
	for end := time.Now().Add(soon); time.Now().Before(end); {
		if _, err := c.Write(d); err != nil {
			w.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(again))
		if n, err := c.Read(got); err == nil {
			return got[:n]
		}
	}
	w.Fatalf("no answer to %d bytes", len(d))
	return nil
}

// unheard wants no answer.
func (w *world) unheard(c *net.UDPConn) {
	w.Helper()
	_, _ = io.WriteString(c, "is anybody there?")
	_ = c.SetReadDeadline(time.Now().Add(again))
	if n, err := c.Read(make([]byte, 100)); err == nil {
		w.Fatalf("an answer of %d bytes", n)
	}
}

func TestPackets(t *testing.T) {
	each(t, func(w *world) {
		w.packets(w.echoPackets, nil)
		c := w.dialPackets(epH)
		bytes, packets := 0, 0
		for _, size := range []int{1, 0, 1200, 9000, 65507, 1} {
			want := make([]byte, size)
			_, _ = proxytest.NewPattern(uint64(size)).Read(want)
			if _, err := c.Write(want); err != nil {
				w.Fatal(err)
			}
			got := make([]byte, 64<<10)
			_ = c.SetReadDeadline(time.Now().Add(soon))
			n, err := c.Read(got)
			if err != nil || !slices.Equal(got[:n], want) {
				w.Fatalf("%d bytes: got %d, %v", size, n, err)
			}
			bytes, packets = bytes+size, packets+1
		}
		w.carry(endpoint, false)
		r := w.records(1)[0]
		if r.Protocol != verdict.UDP || r.Reason != proxy.ReasonRevoked || r.In != int64(bytes) || r.Out != int64(bytes) ||
			r.PacketsIn != int64(packets) || r.PacketsOut != int64(packets) || r.Action != proxy.ActionAccept {
			w.Errorf("record of %d datagrams with %d bytes: %+v", packets, bytes, r)
		}
		w.unheard(c)
	})
}

// TCP and UDP on one port are two listeners.
func TestPacketsBesideConnections(t *testing.T) {
	each(t, func(w *world) {
		w.packets(w.echoPackets, nil)
		b := w.shall.LoadBalancers[balancer]
		b.Listeners = append(slices.Clone(b.Listeners), proxy.Listener{ID: "lsn-2", Protocol: verdict.TCP, Port: w.port, ServerGroup: group})
		w.shall.LoadBalancers[balancer] = b
		g := w.shall.Groups[firewall]
		g.Rules = []verdict.Rule{{ID: "sgr-1", Priority: 1, Policy: verdict.Accept, Protocol: verdict.All, Peer: range16}}
		w.shall.Groups[firewall] = g
		w.apply()
		w.serve(1, proxytest.Echo)
		c := w.dialPackets(epH)
		w.asks(c, []byte("a datagram"))
		w.echoes(w.mustDial(epH), "a stream")
		b.Listeners = b.Listeners[1:]
		w.shall.LoadBalancers[balancer] = b
		w.apply()
		w.unheard(c)
		w.echoes(w.mustDial(epH), "a stream")
	})
}

func TestManyPacketFlows(t *testing.T) {
	each(t, func(w *world) {
		w.packets(w.numbered, nil, w.server(1, 100), w.server(2, 200), w.server(3, 0))
		const flows = 900
		counts := map[string]int{}
		clients := make([]*net.UDPConn, 0, flows)
		for range flows {
			c := w.dialPackets(epH)
			clients = append(clients, c)
			counts[string(w.asks(c, []byte("hello")))]++
		}
		if want := map[string]int{"1": flows / 3, "2": flows * 2 / 3}; !cmp.Equal(counts, want) {
			w.Errorf("flows by server: %v, want %v", counts, want)
		}
		// Each keeps its server.
		for range 3 {
			now := map[string]int{}
			for _, c := range clients {
				now[string(w.asks(c, []byte("hello")))]++
			}
			if !cmp.Equal(now, counts) {
				w.Errorf("flows have moved: %v, were %v", now, counts)
			}
		}
	})
}

func TestPacketsIdle(t *testing.T) {
	each(t, func(w *world) {
		w.packets(w.echoPackets, func(l *proxy.Listener) { l.IdleTimeout = 1 })
		c := w.dialPackets(epH)
		w.asks(c, []byte("hello"))
		busy := w.dialPackets(epI)
		for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
			w.asks(busy, []byte("hello"))
			time.Sleep(again)
		}
		if r := w.records(1)[0]; r.Reason != proxy.ReasonIdle || r.Address.Addr() != epH {
			w.Errorf("record: %+v", r)
		}
		w.asks(c, []byte("hello again")) // is another flow
	})
}

// A server whose machine says that nobody is there loses its flows, and the next
// datagram finds one that is.
func TestPacketsUnreachable(t *testing.T) {
	each(t, func(w *world) {
		w.packets(w.numbered, nil, w.server(1, 100), w.server(2, 100))
		servers := map[string][]*net.UDPConn{}
		for range 4 {
			c := w.dialPackets(epH)
			n := string(w.asks(c, []byte("hello")))
			servers[n] = append(servers[n], c)
		}
		if len(servers["1"]) != 2 || len(servers["2"]) != 2 {
			w.Fatalf("flows by server: %v", servers)
		}
		w.shall.ServerGroups[group] = func(g proxy.ServerGroup) proxy.ServerGroup {
			g.Servers = append(slices.Clone(g.Servers), w.server(3, 100)) // where nobody listens
			g.Servers[0].Weight, g.Servers[1].Weight = 0, 0
			return g
		}(w.shall.ServerGroups[group])
		w.apply()
		c := w.dialPackets(epH)
		w.unheard(c)
		r := w.records(1)[0]
		if r.Reason != proxy.ReasonUnreachable || r.Server != "srv-3" {
			w.Errorf("record: %+v", r)
		}
		w.numbered(3, w.packetServer(3))
		if got := string(w.asks(c, []byte("hello"))); got != "3" {
			w.Errorf("got an answer of %q, want 3", got)
		}
		for n, clients := range servers {
			for _, c := range clients {
				if got := string(w.asks(c, []byte("hello"))); got != n {
					w.Errorf("a flow of %s went to %s", n, got)
				}
			}
		}
	})
}

// A client that a rule refuses gets no answer, and the record says why.
func TestPacketsRefused(t *testing.T) {
	each(t, func(w *world) {
		w.packets(w.echoPackets, nil)
		w.shall.Groups[firewall] = verdict.Group{ID: firewall, Rules: []verdict.Rule{
			{ID: "sgr-1", Priority: 1, Policy: verdict.Accept, Protocol: verdict.TCP, Peer: range16},
		}}
		w.apply()
		w.unheard(w.dialPackets(epH))
		if r := w.records(1)[0]; r.Reason != proxy.ReasonGroup || r.Action != proxy.ActionReject || r.Protocol != verdict.UDP {
			w.Errorf("record: %+v", r)
		}
	})
}

// A header goes in front of the first datagram of a flow and of no other.
func TestPacketsProxyHeader(t *testing.T) {
	each(t, func(w *world) {
		w.packets(w.echoPackets, func(l *proxy.Listener) { l.Proxy = proxy.ProxyProtocol{Enabled: true, Endpoint: true} })
		c := w.dialPackets(epH)
		r := bufio.NewReader(bytes.NewReader(w.asks(c, []byte("hello"))))
		h, err := proxyproto.Read(r)
		if err != nil {
			w.Fatal(err)
		}
		w.knows(h, c, epH, proxyproto.UDPv4)
		if rest, err := io.ReadAll(r); err != nil || string(rest) != "hello" {
			w.Errorf("after the header: %q, %v", rest, err)
		}
		if got := w.asks(c, []byte("more")); string(got) != "more" {
			w.Errorf("the second datagram: %q", got)
		}
	})
}

// A host service is reached from the host's own namespace.
func TestPacketsToHost(t *testing.T) {
	each(t, func(w *world) {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			w.Fatal(err)
		}
		proxytest.EchoPackets(w, c)
		w.packets(func(_ int, c *net.UDPConn) { _ = c.Close() }, nil,
			proxy.Server{ID: "srv-host", Address: c.LocalAddr().(*net.UDPAddr).AddrPort(), Host: true, Weight: 100})
		client := w.dialPackets(epH)
		for _, text := range []string{"first", "second"} {
			if _, err := io.WriteString(client, text); err != nil {
				w.Fatal(err)
			}
		}
		for _, want := range []string{"first", "second"} {
			got := make([]byte, 100)
			_ = client.SetReadDeadline(time.Now().Add(soon))
			if n, err := client.Read(got); err != nil || string(got[:n]) != want {
				w.Fatalf("got %q, %v, want %q", got[:n], err, want)
			}
		}
	})
}

// A flow whose server does not read is dropped from, and keeps no other waiting.
func TestPacketsBesideSlowFlow(t *testing.T) {
	each(t, func(w *world) {
		w.packets(func(n int, c *net.UDPConn) {
			if n == 2 {
				w.echoPackets(n, c)
			} // the first reads nothing
		}, nil, w.server(1, 100), w.server(2, 100))
		var slow, fast *net.UDPConn
		for range 2 {
			c := w.dialPackets(epH)
			_, _ = io.WriteString(c, "hello")
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 100)); err == nil {
				fast = c
			} else {
				slow = c
			}
		}
		if fast == nil || slow == nil {
			w.Fatal("the flows have the same server")
		}
		d := make([]byte, 8<<10)
		for n := range 100 {
			for range 10 {
				if _, err := slow.Write(d); err != nil {
					w.Fatal(err)
				}
			}
			w.asks(fast, fmt.Append(nil, "hello ", n))
		}
	})
}

// packetConn takes a descriptor over.
func packetConn(fd int) (*net.UDPConn, error) {
	f := os.NewFile(uintptr(fd), "packets")
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}
