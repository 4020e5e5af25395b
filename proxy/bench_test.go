package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
)

// manyEndpoints adds n endpoints that wait for their provider.
func (w *world) manyEndpoints(n int) {
	for i := range n {
		id := fmt.Sprint("ep-many-", i)
		w.shall.Endpoints[id] = proxy.Endpoint{
			ID: id, Service: "epsrv-1", Network: consumer, Groups: []string{firewall}, Version: 1,
			Zones: []proxy.EndpointZone{{
				Zone: zoneH, Address: netip.AddrFrom4([4]byte{10, 0, byte(20 + i/250), byte(1 + i%250)}), Carry: true, LoadBalancer: balancer,
			}},
		}
	}
}

// BenchmarkApplyOneOf10000 accepts and revokes one connection among 10,000
// endpoints, on disk and with its socket.
func BenchmarkApplyOneOf10000(b *testing.B) {
	d := newFake()
	w := newWorld(b, d, start(b, d, b.TempDir()))
	w.manyEndpoints(10_000)
	w.apply()
	ep := w.shall.Endpoints["ep-many-77"]
	b.ReportAllocs()
	var took []time.Duration
	for b.Loop() {
		ep.Carry = !ep.Carry
		ep.Version++
		began := time.Now()
		err := w.engine.Apply(b.Context(), proxy.Change{
			Base: w.at, Generation: w.at + 1, Set: proxy.Snapshot{Endpoints: map[string]proxy.Endpoint{ep.ID: ep}},
		})
		took = append(took, time.Since(began))
		if err != nil {
			b.Fatal(err)
		}
		w.at++
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkApplyWhole gives the engine a whole snapshot of 10,000 endpoints that
// it has already.
func BenchmarkApplyWhole(b *testing.B) {
	d := newFake()
	w := newWorld(b, d, start(b, d, b.TempDir()))
	w.manyEndpoints(10_000)
	w.apply()
	for b.Loop() {
		w.at = 0
		w.apply()
	}
}

// BenchmarkAcceptToFirstByte is the time from a provider's decision, as it reaches
// the engine, until a byte has come back through the endpoint.
func BenchmarkAcceptToFirstByte(b *testing.B) {
	d := namespaces(b)
	w := newWorld(b, d, startRemote(b, d, b.TempDir()))
	w.manyEndpoints(10_000)
	w.apply()
	w.serve(1, proxytest.Echo)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		w.bare(true)
		w.echoes(w.mustDial(epH), "x")
		took = append(took, time.Since(began))
		b.StopTimer()
		w.bare(false)
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// bare accepts or revokes without looking at the rest of the snapshot.
func (w *world) bare(carry bool) {
	ep := w.shall.Endpoints[endpoint]
	ep.Carry = carry
	ep.Version++
	w.shall.Endpoints[endpoint] = ep
	c := proxy.Change{Base: w.at, Generation: w.at + 1, Set: proxy.Snapshot{Endpoints: map[string]proxy.Endpoint{endpoint: ep}}}
	if err := w.engine.Apply(w.Context(), c); err != nil {
		w.Fatal(err)
	}
	w.at++
}

// BenchmarkRevoke1000 is the time from a revocation until the last of 1,000 live
// flows has seen its reset.
func BenchmarkRevoke1000(b *testing.B) {
	d := namespaces(b)
	w := newWorld(b, d, startRemote(b, d, b.TempDir()))
	w.apply()
	w.serve(1, proxytest.Echo)
	for b.Loop() {
		b.StopTimer()
		w.bare(true)
		conns := make([]*net.TCPConn, 1000)
		for i := range conns {
			conns[i] = w.mustDial(epH)
			w.echoes(conns[i], "x")
		}
		var ends sync.WaitGroup
		for _, c := range conns {
			ends.Go(func() {
				w.isReset(c)
				_ = c.Close()
			})
		}
		b.StartTimer()
		w.bare(false)
		ends.Wait()
	}
}

// BenchmarkNewFlows opens, uses and ends connections one after the other.
func BenchmarkNewFlows(b *testing.B) {
	d := namespaces(b)
	w := newWorld(b, d, start(b, d, b.TempDir()))
	w.connected(proxytest.Echo)
	b.ReportAllocs()
	for b.Loop() {
		c := w.mustDial(epH)
		w.echoes(c, "x")
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "flows/s")
}

// BenchmarkEngineMemory reports what an engine process with nothing to do holds.
func BenchmarkEngineMemory(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("not root")
	}
	for b.Loop() {
		cfg := proxy.StartConfig{Dir: socketDir(b), Mode: "netns", Installation: newInstallation(), Version: "test", Log: quiet(b)}
		p, err := proxy.Start(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		st, err := p.Status(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.PID))
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var kb float64
			if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kb); err == nil {
				b.ReportMetric(kb/1024, "MiB")
			}
		}
		if err := p.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
