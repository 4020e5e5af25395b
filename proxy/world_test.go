package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// soon is how long a test waits for what must happen.
const soon = 2 * time.Minute

// world is an engine with the product's standard scene: a provider's and a
// consumer's VPC, both 10.0.0.0/16, a load balancer in two zones, and one endpoint
// whose connection is not accepted yet.
type world struct {
	testing.TB
	driver vpc.Driver
	engine proxy.Engine
	shall  proxy.Snapshot
	sent   proxy.Snapshot
	at     uint64
	seen   proxy.Observations // everything observed, newest only
	since  uint64
	port   uint16
}

const (
	zoneH, zoneI = "cn-hangzhou-h", "cn-hangzhou-i"
	consumer     = "vpc-consumer"
	provider     = "vpc-provider"
	balancer     = "nlb-1"
	group        = "sgp-1"
	firewall     = "sg-1"
	endpoint     = "ep-1"
	client       = "att-client"
)

var (
	lbH, lbI = netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("10.0.1.10")
	epH, epI = netip.MustParseAddr("10.0.5.5"), netip.MustParseAddr("10.0.6.5")
	clientAt = netip.MustParseAddr("10.0.5.100")
	range16  = netip.MustParsePrefix("10.0.0.0/16")
)

// backend is the address of the nth server.
func backend(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 2, byte(n)}) }

// quiet logs to the test's own output where that is asked for.
func quiet(tb testing.TB) *slog.Logger {
	tb.Helper()
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// start makes an engine in this process.
func start(tb testing.TB, d vpc.Driver, dir string) *proxy.Local {
	tb.Helper()
	return startWith(tb, proxy.Config{Driver: d, Dir: dir})
}

func startWith(tb testing.TB, cfg proxy.Config) *proxy.Local {
	tb.Helper()
	cfg.Installation, cfg.Version, cfg.Log = "test", "test", quiet(tb)
	e, err := proxy.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return e
}

func newWorld(tb testing.TB, d vpc.Driver, e proxy.Engine) *world {
	tb.Helper()
	w := &world{TB: tb, driver: d, engine: e, port: freePort(tb)}
	w.shall = proxy.Snapshot{
		Networks: map[string]vpc.Network{
			consumer: {
				ID: consumer, Number: 1, CIDRs: []netip.Prefix{range16},
				VSwitches:   []vpc.VSwitch{{ID: "vsw-c", Zone: zoneH, CIDR: netip.MustParsePrefix("10.0.5.0/24")}},
				Addresses:   []netip.Addr{epH, epI},
				Attachments: map[string]vpc.Attachment{client: {ID: client, Kind: vpc.Managed, VSwitch: "vsw-c", Address: clientAt}},
			},
			provider: {
				ID: provider, Number: 2, CIDRs: []netip.Prefix{range16},
				VSwitches: []vpc.VSwitch{{ID: "vsw-p", Zone: zoneH, CIDR: netip.MustParsePrefix("10.0.5.0/24")}},
				Addresses: []netip.Addr{lbH, lbI, backend(1), backend(2), backend(3)},
			},
		},
		LoadBalancers: map[string]proxy.LoadBalancer{balancer: {
			ID: balancer, Network: provider, CrossZone: true,
			Zones:     []proxy.LBZone{{Zone: zoneH, Address: lbH}, {Zone: zoneI, Address: lbI}},
			Listeners: []proxy.Listener{{ID: "lsn-1", Protocol: verdict.TCP, Port: w.port, ServerGroup: group}},
		}},
		ServerGroups: map[string]proxy.ServerGroup{group: {
			ID: group,
			Servers: []proxy.Server{
				{ID: "srv-1", Zone: zoneH, Address: netip.AddrPortFrom(backend(1), w.port), Weight: 100},
			},
		}},
		Groups: map[string]verdict.Group{firewall: {ID: firewall, Rules: []verdict.Rule{
			{ID: "sgr-1", Priority: 1, Policy: verdict.Accept, Protocol: verdict.TCP, Peer: range16},
		}}},
		Endpoints: map[string]proxy.Endpoint{endpoint: {
			ID: endpoint, Service: "epsrv-1", Network: consumer, Groups: []string{firewall}, Version: 1,
			Zones: []proxy.EndpointZone{
				{Zone: zoneH, Address: epH, Carry: true, LoadBalancer: balancer},
				{Zone: zoneI, Address: epI, Carry: true, LoadBalancer: balancer},
			},
		}},
	}
	return w
}

// freePort returns a port that nobody listens on at any address, and that the
// kernel gives to no dialler by itself.
func freePort(tb testing.TB) uint16 {
	tb.Helper()
	for range 100 {
		ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp4", "0.0.0.0:0")
		if err != nil {
			tb.Fatal(err)
		}
		port := uint16(ln.Addr().(*net.TCPAddr).Port)
		_ = ln.Close()
		port = 10000 + port%20000
		if ln, err = new(net.ListenConfig).Listen(tb.Context(), "tcp4", fmt.Sprint("0.0.0.0:", port)); err == nil {
			_ = ln.Close()
			return port
		}
	}
	tb.Fatal("no free port")
	return 0
}

// apply sends what differs from what was sent before.
func (w *world) apply() {
	w.Helper()
	c := proxy.Change{Base: w.at, Generation: w.at + 1, Delete: map[string][]string{}}
	if w.at == 0 {
		c.Set = clone(w.shall)
	} else {
		diff(&c.Set.Networks, w.sent.Networks, w.shall.Networks, c.Delete, "networks")
		diff(&c.Set.LoadBalancers, w.sent.LoadBalancers, w.shall.LoadBalancers, c.Delete, "loadBalancers")
		diff(&c.Set.ServerGroups, w.sent.ServerGroups, w.shall.ServerGroups, c.Delete, "serverGroups")
		diff(&c.Set.Groups, w.sent.Groups, w.shall.Groups, c.Delete, "groups")
		diff(&c.Set.Endpoints, w.sent.Endpoints, w.shall.Endpoints, c.Delete, "endpoints")
	}
	if err := w.engine.Apply(w.Context(), c); err != nil {
		w.Fatal(err)
	}
	w.at++
	w.sent = clone(w.shall)
}

func diff[T any](set *map[string]T, was, is map[string]T, gone map[string][]string, field string) {
	*set = maps.Clone(is)
	for id := range was {
		if _, ok := is[id]; !ok {
			gone[field] = append(gone[field], id)
		}
	}
}

func clone(s proxy.Snapshot) proxy.Snapshot {
	return proxy.Snapshot{
		Networks: maps.Clone(s.Networks), LoadBalancers: maps.Clone(s.LoadBalancers), ServerGroups: maps.Clone(s.ServerGroups),
		Groups: maps.Clone(s.Groups), Endpoints: maps.Clone(s.Endpoints),
	}
}

// carry accepts or revokes the endpoint's connection.
func (w *world) carry(id string, carry bool) {
	w.Helper()
	ep := w.shall.Endpoints[id]
	ep.Carry = carry
	ep.Version++
	w.shall.Endpoints[id] = ep
	w.apply()
}

func (w *world) servers(list ...proxy.Server) {
	g := w.shall.ServerGroups[group]
	g.Servers = list
	w.shall.ServerGroups[group] = g
}

func (w *world) server(n, weight int) proxy.Server {
	return proxy.Server{ID: fmt.Sprint("srv-", n), Zone: zoneH, Address: netip.AddrPortFrom(backend(n), w.port), Weight: weight}
}

// serve runs the nth server of the provider. Its VPC must have been made.
func (w *world) serve(n int, handle proxytest.Handler) net.Listener {
	w.Helper()
	ln, err := w.driver.Listen(w.Context(), provider, netip.AddrPortFrom(backend(n), w.port))
	if err != nil {
		w.Fatal(err)
	}
	proxytest.Serve(w, ln, handle)
	return ln
}

// dial connects the client to an address of its VPC.
func (w *world) dial(at netip.Addr) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(w.Context(), soon)
	defer cancel()
	c, err := w.driver.DialFrom(ctx, consumer, client, netip.AddrPortFrom(at, w.port))
	if err != nil {
		return nil, err
	}
	w.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(soon))
	return c.(*net.TCPConn), nil
}

func (w *world) mustDial(at netip.Addr) *net.TCPConn {
	w.Helper()
	c, err := w.dial(at)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// echoes sends text and expects it back.
func (w *world) echoes(c net.Conn, text string) {
	w.Helper()
	if err := echo(c, text); err != nil {
		w.Fatal(err)
	}
}

func echo(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("echo: got %q, want %q", got, text)
	}
	return nil
}

// isReset waits for the end of c and wants it to be a reset.
func (w *world) isReset(c net.Conn) {
	w.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		w.Fatalf("end of connection: got %v, want a reset", err)
	}
}

// resets wants a connection to at to be accepted and reset. The reset may come
// before the client has noticed the accept.
func (w *world) resets(at netip.Addr) {
	w.Helper()
	c, err := w.dial(at)
	switch {
	case err == nil:
		w.isReset(c)
	case !errors.Is(err, syscall.ECONNRESET):
		w.Fatalf("dial: got %v, want a reset", err)
	}
}

// refuses wants the security groups to refuse a connection to at: without an answer
// where sockets have filters, and else as resets does.
func (w *world) refuses(at netip.Addr) {
	w.Helper()
	if !w.driver.Capabilities().Filters {
		w.resets(at)
		return
	}
	ctx, cancel := context.WithTimeout(w.Context(), silence)
	defer cancel()
	c, err := w.driver.DialFrom(ctx, consumer, client, netip.AddrPortFrom(at, w.port))
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		w.Fatalf("dial: got %v, want no answer", err)
	}
}

// silence is how long no answer is waited for: the first packet is sent once.
const silence = 300 * time.Millisecond

// observe reads what the engine observes until ok, and fails if that does not come.
func (w *world) observe(what string, ok func(proxy.Observations) bool) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), soon)
	defer cancel()
	for !ok(w.seen) {
		o, err := w.engine.Observe(ctx, w.since)
		if err != nil {
			w.Fatalf("waiting for %s: %v; seen %+v", what, err, w.seen)
		}
		w.since = o.Next
		w.seen.Endpoints = newest(w.seen.Endpoints, o.Endpoints, func(v proxy.EndpointObserved) string { return v.ID })
		w.seen.Servers = newest(w.seen.Servers, o.Servers, func(v proxy.ServerObserved) string { return v.ServerGroup + v.ID })
		w.seen.Attachment = newest(w.seen.Attachment, o.Attachment, func(v proxy.AttachmentObserved) string { return v.ID })
		w.seen.Networks = newest(w.seen.Networks, o.Networks, func(v proxy.NetworkObserved) string { return v.ID })
		w.seen.Counters = newest(w.seen.Counters, o.Counters, func(v proxy.Counter) string { return v.Endpoint + v.Zone })
	}
}

func newest[T any](have, news []T, id func(T) string) []T {
	have = slices.DeleteFunc(have, func(h T) bool {
		return slices.ContainsFunc(news, func(n T) bool { return id(n) == id(h) })
	})
	return append(have, news...)
}

// carrying waits until the endpoint is observed so in every zone.
func (w *world) carrying(id string, want bool) {
	w.Helper()
	version := w.shall.Endpoints[id].Version
	w.observe(fmt.Sprint(id, " carrying ", want), func(o proxy.Observations) bool {
		i := slices.IndexFunc(o.Endpoints, func(v proxy.EndpointObserved) bool { return v.ID == id && v.Version == version })
		return i >= 0 && !slices.ContainsFunc(o.Endpoints[i].Zones, func(z proxy.ZoneObserved) bool { return z.Carrying != want })
	})
}

// until waits for so many flows of the engine.
func (w *world) until(flows int64) {
	w.Helper()
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		st, err := w.engine.Status(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		if st.Flows == flows {
			return
		}
		if time.Now().After(end) {
			w.Fatalf("%d flows, want %d", st.Flows, flows)
		}
	}
}

func (w *world) counter(zone string) proxy.Counter {
	for _, c := range w.seen.Counters {
		if c.Zone == zone {
			return c
		}
	}
	return proxy.Counter{}
}

// records waits for n records of the endpoint.
func (w *world) records(n int) []proxy.Record {
	w.Helper()
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		page, err := w.engine.Records(w.Context(), proxy.RecordQuery{Endpoint: endpoint, Limit: 1000})
		if err != nil {
			w.Fatal(err)
		}
		if len(page.Records) >= n || time.Now().After(end) {
			if len(page.Records) != n {
				w.Fatalf("got %d records, want %d: %+v", len(page.Records), n, page.Records)
			}
			return page.Records
		}
	}
}
