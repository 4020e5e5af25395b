package proxy_test

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

// change changes the endpoint and applies that.
func (w *world) change(how func(*proxy.Endpoint)) {
	w.Helper()
	ep := w.shall.Endpoints[endpoint]
	ep.Zones = slices.Clone(ep.Zones)
	how(&ep)
	ep.Version++
	w.shall.Endpoints[endpoint] = ep
	w.apply()
}

func TestRevocationDrains(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		short, long := w.mustDial(epH), w.mustDial(epI)
		w.echoes(short, "before")
		w.echoes(long, "before")

		w.change(func(ep *proxy.Endpoint) {
			ep.Carry, ep.DrainUntil = false, time.Now().Add(time.Hour).UTC()
		})
		if _, err := w.dial(epH); err == nil {
			w.Fatal("a draining endpoint takes new flows")
		}
		w.echoes(short, "draining")
		zoneIs := func(zone string, carrying bool) {
			w.Helper()
			version := w.shall.Endpoints[endpoint].Version
			w.observe("zone "+zone, func(o proxy.Observations) bool {
				for _, ep := range o.Endpoints {
					for _, z := range ep.Zones {
						if ep.ID == endpoint && ep.Version == version && z.Zone == zone && z.Carrying == carrying {
							return true
						}
					}
				}
				return false
			})
		}
		zoneIs(zoneH, true) // it has a live flow
		_ = short.CloseWrite()
		w.records(1)
		zoneIs(zoneH, false) // the last one has left
		zoneIs(zoneI, true)

		w.carry(endpoint, true) // accepted again: what drained lives on
		w.echoes(long, "accepted again")
		w.echoes(w.mustDial(epH), "new")

		w.change(func(ep *proxy.Endpoint) {
			ep.Carry, ep.DrainUntil = false, time.Now().Add(300*time.Millisecond).UTC()
		})
		w.echoes(long, "draining once more")
		w.isReset(long)
		w.carrying(endpoint, false)
		for _, r := range w.records(3)[1:] {
			if r.Reason != proxy.ReasonRevoked {
				w.Errorf("record %+v", r)
			}
		}

		w.carry(endpoint, true)
		cut := w.mustDial(epI)
		w.echoes(cut, "hello")
		w.change(func(ep *proxy.Endpoint) {
			ep.Zones[1].Carry, ep.Zones[1].DrainUntil = false, time.Now().Add(time.Hour).UTC()
		})
		w.echoes(cut, "the zone drains")
		w.change(func(ep *proxy.Endpoint) { ep.Zones[1].DrainUntil = time.Time{} })
		w.isReset(cut) // cut now after all
	})
}

func TestReplacedLoadBalancer(t *testing.T) {
	each(t, func(w *world) {
		const other = "nlb-2"
		name := func(text string) proxytest.Handler {
			return func(c *net.TCPConn) {
				_, _ = c.Write([]byte(text))
				proxytest.Echo(c)
			}
		}
		w.shall.LoadBalancers[other] = proxy.LoadBalancer{
			ID: other, Network: provider, CrossZone: true,
			Zones: []proxy.LBZone{{Zone: zoneH, Address: backend(3)}},
			Listeners: []proxy.Listener{
				{ID: "lsn-2", Protocol: verdict.TCP, Port: w.port, ServerGroup: "sgp-2"},
			},
		}
		w.shall.ServerGroups["sgp-2"] = proxy.ServerGroup{ID: "sgp-2", Servers: []proxy.Server{w.server(2, 100)}}
		w.connected(name("1"))
		w.serve(2, name("2"))
		hears := func(c *net.TCPConn, want string) *net.TCPConn {
			w.Helper()
			b := make([]byte, 1)
			if _, err := c.Read(b); err != nil || string(b) != want {
				w.Fatalf("server %q, %v; want %s", b, err, want)
			}
			return c
		}
		old, elsewhere := hears(w.mustDial(epH), "1"), hears(w.mustDial(epI), "1")
		lead := func(to, replaced string, era int64) {
			w.change(func(ep *proxy.Endpoint) {
				ep.Zones[0].LoadBalancer, ep.Zones[0].Replaced, ep.Zones[0].Era = to, replaced, era
			})
		}

		lead(other, balancer, 0) // gracefully
		w.echoes(old, "older flows live on")
		young := hears(w.mustDial(epH), "2")

		lead(other, "", 0) // close what is left of the old
		w.isReset(old)
		w.echoes(young, "on the new one")

		lead(balancer, "", 1) // by force
		w.isReset(young)
		young = hears(w.mustDial(epH), "1")
		lead(balancer, "", 2)
		w.isReset(young)
		w.echoes(elsewhere, "another zone is not named")
		for _, r := range w.records(3) {
			if r.Reason != proxy.ReasonReplaced {
				w.Errorf("record %+v", r)
			}
		}
	})
}
