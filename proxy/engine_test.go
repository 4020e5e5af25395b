package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// each runs a test on an engine in this process, on one with the forwarder for every
// system, on one behind a socket, and on one that makes real namespaces, where that
// is possible.
func each(t *testing.T, test func(w *world)) {
	t.Helper()
	t.Parallel()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		d := newFake()
		test(newWorld(t, d, start(t, d, t.TempDir())))
	})
	t.Run("goroutines", func(t *testing.T) {
		t.Parallel()
		d := newFake()
		test(newWorld(t, d, startWith(t, proxy.Config{Driver: d, Dir: t.TempDir(), Portable: true})))
	})
	t.Run("remote", func(t *testing.T) {
		t.Parallel()
		d := newFake()
		test(newWorld(t, d, startRemote(t, d, t.TempDir())))
	})
	t.Run("namespaces", func(t *testing.T) {
		d := namespaces(t)
		test(newWorld(t, d, startRemote(t, d, t.TempDir())))
	})
}

// startRemote serves an engine on a socket and returns its client.
func startRemote(tb testing.TB, d vpc.Driver, dir string) *proxy.Remote {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	socket := filepath.Join(socketDir(tb), "engine.sock")
	ended := make(chan error, 1)
	go func() {
		ended <- proxy.Serve(ctx, proxy.Config{Driver: d, Dir: dir, Installation: "test", Version: "test", Log: quiet(tb)}, socket)
	}()
	r := proxy.Dial(socket)
	tb.Cleanup(func() {
		r.Close()
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		_, err := r.Status(tb.Context())
		if err == nil {
			return r
		}
		if !errors.Is(err, proxy.ErrAway) || time.Now().After(end) {
			tb.Fatal(err)
		}
	}
}

// socketDir is a directory with a name short enough for a socket.
func socketDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "opl") //nolint:usetesting // TempDir's name is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// connected is a world whose endpoint carries to one server.
func (w *world) connected(handle proxytest.Handler) *world {
	w.Helper()
	w.apply()
	w.serve(1, handle)
	w.carry(endpoint, true)
	w.carrying(endpoint, true)
	return w
}

func TestStatus(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		w.echoes(w.mustDial(epH), "hello")
		got, err := w.engine.Status(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		if want := w.driver.Capabilities(); got.Mode != want.Mode || got.Reason != want.Reason {
			w.Errorf("mode %q because %q, want %q because %q", got.Mode, got.Reason, want.Mode, want.Reason)
		}
		got.Mode, got.Reason = "", ""
		if got.Started.IsZero() {
			w.Error("the engine does not say when it started")
		}
		got.Started = time.Time{}
		want := proxy.Status{
			Version: "test", PID: os.Getpid(), Installation: "test", Generation: 2,
			Flows: 1, Listeners: 4, // two zones of the endpoint and of the load balancer
		}
		if diff := cmp.Diff(want, got); diff != "" {
			w.Error(diff)
		}
	})
}

func TestNothingPassesBeforeTheGateOpens(t *testing.T) {
	each(t, func(w *world) {
		asked := make(chan struct{}, 100)
		w.apply()
		w.serve(1, func(c *net.TCPConn) {
			asked <- struct{}{}
			proxytest.Echo(c)
		})
		w.carrying(endpoint, false)
		refused := func() {
			w.Helper()
			for _, at := range []netip.Addr{epH, epI} {
				if _, err := w.dial(at); err == nil {
					w.Fatalf("%v accepted a connection", at)
				}
			}
			if len(asked) > 0 {
				w.Fatal("the server was asked")
			}
		}
		refused()

		ep := w.shall.Endpoints[endpoint]
		ep.Carry, ep.Version = true, ep.Version+1
		ep.Zones = []proxy.EndpointZone{
			{Zone: zoneH, Address: epH, Carry: false, LoadBalancer: balancer},
			{Zone: zoneI, Address: epI, Carry: false, LoadBalancer: balancer},
		}
		w.shall.Endpoints[endpoint] = ep
		w.apply()
		w.carrying(endpoint, false)
		refused()

		ep.Version++
		ep.Zones = []proxy.EndpointZone{ep.Zones[0], {Zone: zoneI, Address: epI, Carry: true, LoadBalancer: balancer}}
		w.shall.Endpoints[endpoint] = ep
		w.apply()
		if c, err := w.dial(epH); err == nil {
			w.Fatalf("zone h does not carry, and %v accepted", c.RemoteAddr())
		}
		w.echoes(w.mustDial(epI), "by zone i")
	})
}

func TestHalfClose(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Sum)
		c := w.mustDial(epH)
		if _, err := io.WriteString(c, "all that I say"); err != nil {
			w.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			w.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if want := "f27a2cb0b2d46c1a"; err != nil || len(got) != 64 {
			w.Fatalf("answer after our end: %q, %v; want 64 digits like %s", got, err, want)
		}
		r := w.records(1)[0]
		if r.Reason != proxy.ReasonClosed || r.In != int64(len("all that I say")) || r.Out != 64 || r.Server != "srv-1" ||
			r.Source.Addr() != clientAt || r.Address.Addr() != epH || r.Action != proxy.ActionAccept || r.Zone != zoneH {
			w.Errorf("record %+v", r)
		}
	})
}

func TestServerEndsFirst(t *testing.T) {
	each(t, func(w *world) {
		heard := make(chan string, 1)
		w.connected(func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "welcome")
			_ = c.CloseWrite()
			b, _ := io.ReadAll(c)
			heard <- string(b)
		})
		c := w.mustDial(epH)
		if got, err := io.ReadAll(c); err != nil || string(got) != "welcome" {
			w.Fatalf("got %q, %v", got, err)
		}
		if _, err := io.WriteString(c, "and still I speak"); err != nil {
			w.Fatal(err)
		}
		_ = c.CloseWrite()
		if got := <-heard; got != "and still I speak" {
			w.Fatalf("the server heard %q", got)
		}
	})
}

func TestDataWithEnd(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Say("one segment"))
		for range 50 {
			c := w.mustDial(epH)
			_ = c.CloseWrite()
			if got, err := io.ReadAll(c); err != nil || string(got) != "one segment" {
				w.Fatalf("got %q, %v", got, err)
			}
		}
	})
}

func TestResetPassesOn(t *testing.T) {
	for _, half := range []bool{false, true} {
		name := map[bool]string{false: "open", true: "after its own end"}[half]
		t.Run("of the client "+name, func(t *testing.T) {
			each(t, func(w *world) {
				seen := make(chan error, 1)
				w.connected(func(c *net.TCPConn) {
					_, err := io.Copy(io.Discard, c)
					if half && err == nil { // then the reset comes while there is nothing to read
						for err == nil {
							_, err = c.Write([]byte("x"))
						}
					}
					seen <- err
				})
				c := w.mustDial(epH)
				if half {
					_ = c.CloseWrite()
				}
				_ = c.SetLinger(0)
				_ = c.Close()
				if err := <-seen; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					w.Fatalf("the server saw %v, want a reset", err)
				}
				if r := w.records(1)[0]; r.Reason != proxy.ReasonReset {
					w.Fatalf("record %+v", r)
				}
			})
		})
		t.Run("of the server "+name, func(t *testing.T) {
			each(t, func(w *world) {
				w.connected(func(c *net.TCPConn) {
					if half {
						_ = c.CloseWrite()
					}
					_, _ = c.Read(make([]byte, 1))
					_ = c.SetLinger(0)
				})
				c := w.mustDial(epH)
				if half {
					if _, err := io.ReadAll(c); err != nil {
						w.Fatal(err)
					}
				}
				_, _ = c.Write([]byte("x"))
				if half {
					for err := error(nil); err == nil; {
						_, err = c.Write([]byte("x"))
					}
				} else {
					w.isReset(c)
				}
				if r := w.records(1)[0]; r.Reason != proxy.ReasonReset {
					w.Fatalf("record %+v", r)
				}
			})
		})
	}
}

func TestBulk(t *testing.T) {
	const size = 64 << 20
	each(t, func(w *world) {
		w.connected(proxytest.Sum)
		c := w.mustDial(epH)
		want := proxytest.SumOf(io.LimitReader(proxytest.NewPattern(1), size))
		if n, err := io.Copy(onlyWriter{c}, io.LimitReader(proxytest.NewPattern(1), size)); err != nil || n != size {
			w.Fatal(n, err)
		}
		_ = c.CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil || string(got) != want {
			w.Fatalf("sum %s, %v; want %s", got, err, want)
		}
	})
}

// onlyWriter keeps io.Copy from the shortcuts of a connection.
type onlyWriter struct{ io.Writer }

// A client that does not read holds the server back, loses nothing, and does not
// keep others waiting.
func TestSlowReader(t *testing.T) {
	const size = 48 << 20
	each(t, func(w *world) {
		var mu sync.Mutex
		sent := 0
		w.connected(func(c *net.TCPConn) {
			b, pattern := make([]byte, 64<<10), proxytest.NewPattern(2)
			for n := 0; n < size; n += len(b) {
				_, _ = pattern.Read(b)
				if _, err := c.Write(b); err != nil {
					return
				}
				mu.Lock()
				sent += len(b)
				mu.Unlock()
			}
		})
		slow := w.mustDial(epH)
		// Stopped: the server gets no further for a while.
		stuck := func() bool {
			mu.Lock()
			before := sent
			mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			return before > 0 && sent == before
		}
		for end := time.Now().Add(soon); !stuck(); {
			if time.Now().After(end) {
				w.Fatal("nothing holds the server back")
			}
		}
		mu.Lock()
		if sent >= size {
			w.Fatal("the engine took everything though nobody reads")
		}
		mu.Unlock()
		quick := w.mustDial(epI)
		if _, err := io.ReadFull(quick, make([]byte, 1<<20)); err != nil {
			w.Fatalf("beside the slow one: %v", err)
		}
		_ = quick.Close()
		want := proxytest.SumOf(io.LimitReader(proxytest.NewPattern(2), size))
		if got := proxytest.SumOf(io.LimitReader(slow, size)); got != want {
			w.Fatalf("sum %s, want %s", got, want)
		}
	})
}

func TestRevokeResetsLiveFlows(t *testing.T) {
	const flows = 200
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		var conns []*net.TCPConn
		for range flows {
			c := w.mustDial(epH)
			w.echoes(c, "x")
			conns = append(conns, c)
		}
		began := time.Now()
		w.carry(endpoint, false)
		for _, c := range conns {
			w.isReset(c)
		}
		if took := time.Since(began); took > time.Second {
			w.Errorf("took %v, want at most a second", took)
		}
		w.carrying(endpoint, false)
		if st, err := w.engine.Status(w.Context()); err != nil || st.Flows != 0 {
			w.Errorf("after the revocation: %+v, %v", st, err)
		}
		for _, r := range w.records(flows) {
			if r.Reason != proxy.ReasonRevoked || r.In != 1 || r.Out != 1 {
				w.Fatalf("record %+v", r)
			}
		}
		w.carry(endpoint, true)
		w.echoes(w.mustDial(epH), "again")
	})
}

func TestSecurityGroupRefuses(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		kept := w.mustDial(epH)
		w.echoes(kept, "before")
		w.shall.Groups[firewall] = verdict.Group{ID: firewall, Rules: []verdict.Rule{
			{ID: "sgr-2", Priority: 1, Policy: verdict.Drop, Protocol: verdict.TCP, Peer: range16},
		}}
		w.apply()
		w.echoes(kept, "a changed rule keeps live flows")
		w.refuses(epH)
		want := proxy.Record{
			Protocol: verdict.TCP, Endpoint: endpoint, Zone: zoneH, Service: "epsrv-1", Address: netip.AddrPortFrom(epH, w.port), Action: proxy.ActionReject, Reason: proxy.ReasonGroup,
			Verdict: verdict.Trace{Reason: verdict.ByRule, Group: firewall, Rule: "sgr-2"},
		}
		got := w.records(1)[0]
		if got.Source.Addr() != clientAt || got.Start.IsZero() || got.Seq == 0 {
			w.Errorf("record %+v", got)
		}
		got.Seq, got.Source, got.Start, got.End = 0, netip.AddrPort{}, time.Time{}, time.Time{}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			w.Error(diff)
		}
		w.observe("the counter", func(proxy.Observations) bool {
			c := w.counter(zoneH)
			return c.Refused == 1 && c.Flows == 1 && c.Active == 1 && c.In == c.Out && c.In > 0
		})

		// A group that does not exist lets nobody in, nor does none at all.
		for _, groups := range [][]string{{"sg-unknown"}, nil} {
			ep := w.shall.Endpoints[endpoint]
			ep.Groups, ep.Version = groups, ep.Version+1
			w.shall.Endpoints[endpoint] = ep
			w.apply()
			w.refuses(epI)
		}
		w.echoes(kept, "still here")
	})
}

// An endpoint that rechecks its flows resets those that changed rules refuse, and
// no others; so does one that begins to.
func TestRecheck(t *testing.T) {
	each(t, func(w *world) {
		open := verdict.Group{ID: firewall, Rules: []verdict.Rule{{ID: "in", Priority: 1, Policy: verdict.Accept, Protocol: verdict.TCP, Peer: range16}}}
		barred := verdict.Group{ID: firewall, Rules: append([]verdict.Rule{
			{ID: "out", Priority: 1, Policy: verdict.Drop, Protocol: verdict.TCP, Peer: netip.PrefixFrom(clientAt, 32)},
		}, open.Rules...)}
		n := w.shall.Networks[consumer]
		n.Attachments = maps.Clone(n.Attachments)
		n.Attachments["att-other"] = vpc.Attachment{ID: "att-other", Kind: vpc.Managed, VSwitch: "vsw-c", Address: clientOf(7)}
		w.shall.Networks[consumer] = n
		recheck := func(on bool) {
			ep := w.shall.Endpoints[endpoint]
			ep.Recheck, ep.Version = on, ep.Version+1
			w.shall.Endpoints[endpoint] = ep
		}
		set := func(g verdict.Group) {
			w.shall.Groups[firewall] = g
			w.apply()
		}
		recheck(true)
		w.shall.Groups[firewall] = open
		w.connected(proxytest.Echo)
		other, err := w.driver.DialFrom(w.Context(), consumer, "att-other", netip.AddrPortFrom(epH, w.port))
		if err != nil {
			w.Fatal(err)
		}
		defer other.Close()
		_ = other.SetDeadline(time.Now().Add(soon))
		w.echoes(other, "let in")

		first := w.mustDial(epH)
		w.echoes(first, "let in")
		began := time.Now()
		set(barred)
		w.isReset(first)
		if took := time.Since(began); took > time.Second {
			w.Errorf("the flow was reset after %v", took)
		}
		r := w.records(1)[0]
		if want := (verdict.Trace{Reason: verdict.ByRule, Group: firewall, Rule: "out"}); r.Verdict != want || r.Reason != proxy.ReasonGroup ||
			r.Action != proxy.ActionAccept || r.Source.Addr() != clientAt || r.In != 6 {
			w.Errorf("record %+v, want a flow that %+v ended", r, want)
		}

		set(open)
		recheck(false)
		second := w.mustDial(epI)
		w.echoes(second, "let in")
		set(barred)
		w.echoes(second, "kept")
		recheck(true)
		w.apply()
		w.isReset(second)
		w.echoes(other, "nobody refused this one")
	})
}

func TestGeneration(t *testing.T) {
	each(t, func(w *world) {
		w.apply()
		for _, base := range []uint64{2, 7} {
			if err := w.engine.Apply(w.Context(), proxy.Change{Base: base, Generation: 8}); !errors.Is(err, proxy.ErrGeneration) {
				w.Errorf("base %d: got %v, want ErrGeneration", base, err)
			}
		}
		if err := w.engine.Apply(w.Context(), proxy.Change{Base: 1, Generation: 2, Delete: map[string][]string{"nonsense": {"x"}}}); err == nil {
			w.Error("a change that deletes nonsense was applied")
		}
		w.at = 0 // whole, whatever the engine has
		w.apply()
		if st, _ := w.engine.Status(w.Context()); st.Generation != 1 {
			w.Errorf("generation %d, want 1", st.Generation)
		}
	})
}

func TestWholeSnapshotDeletesTheRest(t *testing.T) {
	d := newFake()
	w := newWorld(t, d, start(t, d, ""))
	w.connected(proxytest.Echo)
	c := w.mustDial(epH)
	w.echoes(c, "hello")
	if err := w.engine.Apply(t.Context(), proxy.Change{Generation: 9}); err != nil {
		t.Fatal(err)
	}
	w.isReset(c)
	if left := d.made(); len(left) != 0 {
		t.Errorf("networks left: %v", left)
	}
	o, err := w.engine.Observe(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(proxy.Observations{Next: o.Next, Generation: 9}, o); diff != "" {
		t.Error(diff)
	}
}

func TestServers(t *testing.T) {
	each(t, func(w *world) {
		name := func(n int) proxytest.Handler {
			return func(c *net.TCPConn) {
				_, _ = fmt.Fprint(c, n)
				proxytest.Echo(c)
			}
		}
		w.servers(w.server(1, 50), w.server(2, 100), w.server(3, 0))
		w.connected(name(1))
		w.serve(2, name(2))
		w.serve(3, name(3))
		ask := func() (*net.TCPConn, byte) {
			w.Helper()
			c := w.mustDial(epH)
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err != nil {
				w.Fatal(err)
			}
			return c, b[0]
		}
		count := map[byte]int{}
		kept := map[byte]*net.TCPConn{}
		for range 30 {
			c, n := ask()
			count[n]++
			kept[n] = c
		}
		if diff := cmp.Diff(map[byte]int{'1': 10, '2': 20}, count); diff != "" {
			w.Errorf("weights 50, 100, 0: %s", diff)
		}

		w.servers(w.server(1, 0), w.server(2, 100), w.server(3, 100))
		w.apply()
		w.echoes(kept['1'], "weight 0 keeps its flows")
		for range 10 {
			if _, n := ask(); n == '1' {
				w.Fatal("a server of weight 0 got a new flow")
			}
		}

		w.servers(w.server(1, 0), w.server(3, 100))
		w.apply()
		w.isReset(kept['2'])
		w.echoes(kept['1'], "removing another cuts nothing here")
		if _, n := ask(); n != '3' {
			w.Fatalf("server %c answered", n)
		}

		moved := w.server(1, 0)
		moved.Address = netip.AddrPortFrom(backend(2), w.port)
		w.servers(moved, w.server(3, 100))
		w.apply()
		w.isReset(kept['1'])

		w.servers()
		w.apply()
		w.resets(epH)
		reasons := map[string]int{}
		page, err := w.engine.Records(w.Context(), proxy.RecordQuery{Limit: 1000})
		for _, r := range page.Records {
			reasons[r.Reason]++
		}
		if err != nil || reasons[proxy.ReasonRemoved] == 0 {
			w.Errorf("reasons %v, %v", reasons, err)
		}
	})
}

func TestNoServer(t *testing.T) {
	each(t, func(w *world) {
		w.servers()
		w.apply()
		w.carry(endpoint, true)
		w.resets(epH)
		if r := w.records(1)[0]; r.Reason != proxy.ReasonNoServer || r.Action != proxy.ActionReject {
			w.Errorf("record %+v", r)
		}
	})
}

func TestOnlyServersOfTheZone(t *testing.T) {
	each(t, func(w *world) {
		lb := w.shall.LoadBalancers[balancer]
		lb.CrossZone = false
		w.shall.LoadBalancers[balancer] = lb
		w.connected(proxytest.Echo)
		w.echoes(w.mustDial(epH), "the server is in zone h")
		w.resets(epI)
		anywhere := w.server(1, 100)
		anywhere.Zone = ""
		w.servers(anywhere)
		w.apply()
		w.echoes(w.mustDial(epI), "the server is in no zone")
	})
}

// A server that refuses is passed over: nobody notices but the log.
func TestFailover(t *testing.T) {
	each(t, func(w *world) {
		w.servers(w.server(1, 100), w.server(2, 100), w.server(3, 100))
		w.connected(proxytest.Echo) // 2 and 3 do not listen
		for range 12 {
			w.echoes(w.mustDial(epH), "hello")
		}
	})
}

func TestConnectFails(t *testing.T) {
	each(t, func(w *world) {
		w.apply()
		w.carry(endpoint, true)
		w.resets(epH)
		r := w.records(1)[0]
		if r.Reason != proxy.ReasonConnect || r.Action != proxy.ActionReject || r.Server != "srv-1" || !r.Verdict.Accept {
			w.Errorf("record %+v", r)
		}
	})
}

func TestHealth(t *testing.T) {
	each(t, func(w *world) {
		g := w.shall.ServerGroups[group]
		g.Health = proxy.HealthCheck{Enabled: true, Interval: 1, Timeout: 1}
		w.shall.ServerGroups[group] = g
		w.servers(w.server(1, 100), w.server(2, 100))
		w.connected(proxytest.Echo)
		w.health("srv-1", proxy.Healthy, "")
		w.health("srv-2", proxy.Unhealthy, "CONNECT_FAILED")
		second := w.serve(2, proxytest.Say("2"))
		w.health("srv-2", proxy.Healthy, "")
		_ = second.Close()
		w.health("srv-2", proxy.Unhealthy, "CONNECT_FAILED")

		// All down: every one is tried rather than none.
		w.serve(3, proxytest.Echo)
		w.servers(w.server(2, 100), w.server(3, 100))
		g = w.shall.ServerGroups[group]
		g.Health.Port = freePort(w)
		w.shall.ServerGroups[group] = g
		w.apply()
		w.health("srv-3", proxy.Unhealthy, "CONNECT_FAILED")
		w.echoes(w.mustDial(epH), "fail open")

		g.Health.Enabled = false
		w.shall.ServerGroups[group] = g
		w.apply()
		w.health("srv-3", proxy.Unknown, "")
	})
}

func TestDirectClient(t *testing.T) {
	each(t, func(w *world) {
		w.apply()
		w.serve(1, proxytest.Echo)
		ctx, cancel := context.WithTimeout(w.Context(), soon)
		defer cancel()
		c, err := w.driver.Dial(ctx, provider, backend(3), netip.AddrPortFrom(lbI, w.port))
		if err != nil {
			w.Fatal(err)
		}
		defer c.Close()
		w.echoes(c, "no endpoint, no security group")
	})
}

func TestHostServerAndPublishedPort(t *testing.T) {
	each(t, func(w *world) {
		ln, err := new(net.ListenConfig).Listen(w.Context(), "tcp4", "127.0.0.1:0")
		if err != nil {
			w.Fatal(err)
		}
		proxytest.Serve(w, ln, proxytest.Echo)
		on := ln.Addr().(*net.TCPAddr).AddrPort()
		w.servers(proxy.Server{ID: "srv-host", Zone: zoneH, Address: on, Host: true, Weight: 1})
		published := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(w))
		n := w.shall.Networks[consumer]
		at := netip.MustParseAddr("10.0.5.77")
		n.Addresses = append(n.Addresses, at)
		n.Attachments = map[string]vpc.Attachment{
			client:     n.Attachments[client],
			"att-port": {ID: "att-port", Kind: vpc.PublishedPort, VSwitch: "vsw-c", Address: at, Host: published, To: netip.AddrPortFrom(epH, w.port)},
		}
		w.shall.Networks[consumer] = n
		w.apply()
		w.carry(endpoint, true)
		w.observe("the published port", func(o proxy.Observations) bool {
			for _, a := range o.Attachment {
				if a.ID == "att-port" && a.Up {
					return true
				}
			}
			return false
		})
		c, err := net.Dial("tcp4", published.String())
		if err != nil {
			w.Fatal(err)
		}
		defer c.Close()
		w.echoes(c, "from the host through the endpoint to the host")
		w.carry(endpoint, false)
		w.isReset(c)
		if r := w.records(1)[0]; r.Source.Addr() != at {
			w.Errorf("the endpoint saw %v, want the port's own address %v", r.Source, at)
		}

		n.Attachments = map[string]vpc.Attachment{client: n.Attachments[client]}
		w.shall.Networks[consumer] = n
		w.apply()
		if c, err := net.Dial("tcp4", published.String()); err == nil {
			_ = c.Close()
			w.Error("the port is still published")
		}
	})
}

func TestIdle(t *testing.T) {
	each(t, func(w *world) {
		lb := w.shall.LoadBalancers[balancer]
		lb.Listeners = []proxy.Listener{{ID: "lsn-1", Protocol: verdict.TCP, Port: w.port, ServerGroup: group, IdleTimeout: 1}}
		w.shall.LoadBalancers[balancer] = lb
		ended := make(chan error, 2)
		w.connected(func(c *net.TCPConn) {
			_, err := io.Copy(c, c)
			ended <- err
		})
		quiet, busy := w.mustDial(epH), w.mustDial(epH)
		began := time.Now()
		w.echoes(quiet, "and then nothing")
		var chatter sync.WaitGroup
		stop := make(chan struct{})
		chatter.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Millisecond):
					if err := echo(busy, "still here"); err != nil {
						w.Error(err)
						return
					}
				}
			}
		})
		w.isReset(quiet)
		if after := time.Since(began); after < 900*time.Millisecond || after > 3*time.Second {
			w.Errorf("ended after %v, want about a second", after)
		}
		if err := <-ended; err == nil {
			w.Error("the server saw an orderly end, want a reset")
		}
		close(stop)
		chatter.Wait()
		w.echoes(busy, "bytes keep a flow")
		if r := w.records(1)[0]; r.Reason != proxy.ReasonIdle {
			w.Errorf("record %+v", r)
		}
	})
}

func TestRebuildFromDisk(t *testing.T) {
	dir := t.TempDir()
	d := newFake()
	first, err := proxy.New(proxy.Config{Driver: d, Dir: dir, Log: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, d, first)
	w.connected(proxytest.Echo)
	c := w.mustDial(epH)
	w.echoes(c, "hello")
	since := w.since
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	w.isReset(c)

	second := start(t, d, dir)
	w.engine = second
	w.seen = proxy.Observations{}
	w.since = since // as a control plane that did not notice
	w.carrying(endpoint, true)
	if r := w.records(1)[0]; r.Reason != proxy.ReasonShutdown || r.In == 0 {
		t.Errorf("of the former engine: %+v", r)
	}
	w.echoes(w.mustDial(epH), "without the control plane")
	w.carry(endpoint, false)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}

	w.engine, w.seen, w.since = start(t, d, dir), proxy.Observations{}, 0
	w.carrying(endpoint, false)
	if c, err := w.dial(epH); err == nil {
		t.Fatalf("%v accepts after a revocation and a restart", c.RemoteAddr())
	}
}

func TestClear(t *testing.T) {
	dir := t.TempDir()
	d := newFake()
	r := startRemote(t, d, dir)
	w := newWorld(t, d, r)
	w.connected(proxytest.Echo)
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := d.made(); len(left) != 0 {
		t.Errorf("networks left: %v", left)
	}
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		if _, err := r.Status(t.Context()); errors.Is(err, proxy.ErrAway) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the engine still answers")
		}
	}
	again := start(t, d, dir)
	if st, _ := again.Status(t.Context()); st.Generation != 0 {
		t.Errorf("generation %d, want nothing left", st.Generation)
	}
}
