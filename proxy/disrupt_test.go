package proxy_test

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// A change cuts nothing that it does not name: streams that never pause run through
// random edits of everything around them.
func TestEditsCutNothing(t *testing.T) {
	const streams, edits = 200, 50
	each(t, func(w *world) {
		w.servers(w.server(1, 100), w.server(2, 100))
		w.serve2(proxytest.Echo)
		random := rand.New(rand.NewPCG(1, 2))
		var running sync.WaitGroup
		var stop atomic.Bool
		var rounds atomic.Int64
		for i := range streams {
			c := w.mustDial([]netip.Addr{epH, epI}[i%2])
			_ = c.SetDeadline(time.Now().Add(10 * time.Minute)) // of the whole test
			w.echoes(c, "judged and carried before anything changes")
			running.Go(func() {
				for !stop.Load() {
					if err := echo(c, "a line that comes back"); err != nil {
						w.Errorf("stream %d: %v", i, err)
						return
					}
					rounds.Add(1)
				}
			})
		}
		for n := range edits {
			w.shall = clone(w.shall)
			w.edit(random, n)
			w.apply()
		}
		stop.Store(true)
		running.Wait()
		if rounds.Load() < streams {
			w.Errorf("%d rounds in all: the streams did not run", rounds.Load())
		}
		if st, err := w.engine.Status(w.Context()); err != nil || st.Flows != streams {
			w.Errorf("%d flows live, want %d (%v)", st.Flows, streams, err)
		}
	})
}

// Servers that reset and servers that never answer cost others nothing, and every end
// is counted as what it was.
func TestFailingServersCutNothing(t *testing.T) {
	const flows = 50
	each(t, func(w *world) {
		w.connected(func(c *net.TCPConn) {
			kind := make([]byte, 1)
			if _, err := io.ReadFull(c, kind); err != nil {
				return
			}
			switch kind[0] {
			case 'r':
				_ = c.SetLinger(0)
			case 's':
				_, _ = io.Copy(io.Discard, c)
			default:
				_, _ = c.Write(kind)
				proxytest.Echo(c)
			}
		})
		live := w.mustDial(epH)
		w.echoes(live, "live")
		var silent []net.Conn
		for range flows {
			for _, kind := range []string{"r", "s"} {
				c := w.mustDial(epH)
				if _, err := io.WriteString(c, kind); err != nil {
					w.Fatal(err)
				}
				if kind == "r" {
					w.isReset(c)
				} else {
					silent = append(silent, c)
				}
			}
			w.echoes(live, "still there")
		}
		w.until(1 + flows)
		for _, c := range silent {
			_ = c.Close()
		}
		w.until(1)
		w.echoes(live, "and after")
		ended := map[string]int{}
		for _, r := range w.records(2 * flows) {
			ended[r.Reason]++
		}
		if ended[proxy.ReasonReset] != flows || ended[proxy.ReasonClosed] != flows {
			w.Errorf("ends %v, want %d of either kind", ended, flows)
		}
	})
}

// Nor does a change of program, in the midst of them.
func TestEditsAndUpgradeCutNothing(t *testing.T) {
	const streams, edits = 1000, 50
	if _, _, err := vpc.Probe(vpc.ModeNetns); err != nil {
		t.Skip(err)
	}
	p, _ := install(t, vpc.ModeNetns)
	w := scene(t, p)
	w.says(p.Remote, "before")
	w.until(0)
	k := w.start(p.Remote, "streams", netip.AddrPortFrom(epH, w.port).String(), strconv.Itoa(streams))
	if got := <-k.first; got != "running" {
		t.Fatal(got)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for n := range edits {
		w.shall = clone(w.shall)
		w.edit(random, n)
		w.apply()
		if n != edits/2 {
			continue
		}
		if _, err := p.Upgrade(t.Context(), self); err != nil {
			t.Fatal(err)
		}
	}
	if got := status(t, p).Flows; got != streams {
		t.Errorf("%d flows live, want %d", got, streams)
	}
	k.end()
	if got := <-k.last; got != "" {
		t.Errorf("cut: %s", got)
	}
}

// serve2 connects the endpoint to two servers.
func (w *world) serve2(handle proxytest.Handler) {
	w.Helper()
	w.connected(handle)
	w.serve(2, handle)
}

// edit changes something that names no stream of the endpoint.
func (w *world) edit(random *rand.Rand, n int) {
	switch random.IntN(9) {
	case 0: // rules, even to nobody
		g := w.shall.Groups[firewall]
		g.Rules = []verdict.Rule{{ID: fmt.Sprint("sgr-", n), Priority: 1, Policy: verdict.Drop, Protocol: verdict.All, Peer: range16}}
		w.shall.Groups[firewall] = g
	case 1: // the endpoint's other fields
		ep := w.shall.Endpoints[endpoint]
		ep.Version++
		ep.Groups = []string{firewall, fmt.Sprint("sg-", n)}
		w.shall.Endpoints[endpoint] = ep
	case 2: // another endpoint, that leads to the same place
		id := fmt.Sprint("ep-other-", random.IntN(5))
		at := netip.AddrFrom4([4]byte{10, 0, 7, byte(1 + random.IntN(200))})
		w.shall.Endpoints[id] = proxy.Endpoint{ID: id, Network: consumer, Carry: true, Groups: []string{firewall}, Version: int64(n), Zones: []proxy.EndpointZone{
			{Zone: zoneH, Address: at, Carry: true, LoadBalancer: balancer},
		}}
	case 3: // and away with it
		delete(w.shall.Endpoints, fmt.Sprint("ep-other-", random.IntN(5)))
	case 4: // one server more, other weights
		list := slices.DeleteFunc(slices.Clone(w.shall.ServerGroups[group].Servers), func(s proxy.Server) bool { return s.ID == "srv-3" })
		list = append(list, w.server(3, 0))
		for i := range list {
			list[i].Weight = random.IntN(3) * 50
		}
		w.servers(list...)
	case 5: // health checks
		g := w.shall.ServerGroups[group]
		g.Health = proxy.HealthCheck{Enabled: random.IntN(2) == 0, Interval: 1 + random.IntN(3)}
		w.shall.ServerGroups[group] = g
	case 6: // more listeners, another idle time-out
		lb := w.shall.LoadBalancers[balancer]
		lb.CrossZone = random.IntN(2) == 0
		lb.Listeners = []proxy.Listener{{ID: "lsn-1", Protocol: verdict.TCP, Port: w.port, ServerGroup: group, IdleTimeout: 100 + n}}
		if random.IntN(2) == 0 {
			lb.Listeners = append(lb.Listeners, proxy.Listener{ID: "lsn-2", Protocol: verdict.TCP, Port: w.port + 1, ServerGroup: "sgp-2"})
		}
		w.shall.LoadBalancers[balancer] = lb
	case 7: // networks
		for _, id := range []string{consumer, provider} {
			v := w.shall.Networks[id]
			v.Addresses = append(slices.Clip(v.Addresses), netip.AddrFrom4([4]byte{10, 0, 9, byte(n)}))
			w.shall.Networks[id] = v
		}
	case 8: // another server behind the listener
		w.shall.ServerGroups["sgp-2"] = proxy.ServerGroup{ID: "sgp-2", Servers: []proxy.Server{w.server(3, n)}}
		w.shall.ServerGroups = maps.Clone(w.shall.ServerGroups)
	}
}
