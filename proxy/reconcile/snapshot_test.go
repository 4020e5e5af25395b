package reconcile

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

// TestLoadBalancerSnapshot gives every parameter of a load balancer and of server
// groups a value of its own and finds it in the snapshot.
func TestLoadBalancerSnapshot(t *testing.T) {
	w := domaintest.New(t)
	ctx, p := t.Context(), w.Provider
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	v, err := p.CreateVPC(ctx, domain.VPCInput{
		RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{{ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"}},
	})
	ok(err)
	d, err := p.VPC(ctx, v.ID)
	ok(err)
	web, err := p.CreateServerGroup(ctx, domain.ServerGroupInput{
		VPCID: v.ID, Protocol: domain.ProtocolBoth, Scheduler: "wlc", Drain: 31, SlowStart: 32, FailClosed: true, ResetOnUnhealthy: true,
		Health: domain.HealthInput{
			Type: "http", Port: 81, Interval: 6, Timeout: 7, HealthyThreshold: 3, UnhealthyThreshold: 4, Proxy: true,
			Method: "HEAD", Path: "/ok", Host: "orders.example", HTTPVersion: "1.1", Codes: []string{"http_2xx", "http_4xx"},
		},
		Servers: []domain.ServerInput{{Address: "10.0.1.50", Port: 80, Weight: new(0)}, {DNSName: "orders.example", Port: 8080, Weight: new(9)}},
	})
	ok(err)
	quic, err := p.CreateServerGroup(ctx, domain.ServerGroupInput{
		VPCID: v.ID, Protocol: "udp", Scheduler: "qch", AnyPort: true, Health: domain.HealthInput{Port: 53, Request: "ping", Expect: "pong"},
	})
	ok(err)
	lb, err := p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
		VPCID: v.ID, CrossZone: true, CPS: 1000, Zones: []domain.LBZoneInput{{VSwitchID: d.VSwitches[0].ID, Address: "10.0.1.100", Local: 2}},
		Listeners: []domain.ListenerInput{{
			Port: 443, ServerGroupID: web.ID, IdleTimeout: 60, CPS: 100, MaxConnections: 200, MSS: 1400,
			Proxy: domain.ProxyProtocol{Enabled: true, VPC: true, Endpoint: true, Service: true},
		}, {
			Protocol: "udp", PortFrom: 1000, PortTo: 2000, ServerGroupID: quic.ID, Proxy: domain.ProxyProtocol{Enabled: true, Dialect: "gcp", Endpoint: true},
		}},
	})
	ok(err)
	set, _, err := read(ctx, w.Store.System(), nil)
	ok(err)

	addr := netip.MustParseAddr
	sorted := cmpopts.SortSlices(func(a, b proxy.Listener) bool { return a.Protocol < b.Protocol })
	servers := cmpopts.SortSlices(func(a, b proxy.Server) bool { return a.Weight < b.Weight })
	anyID := []cmp.Option{
		cmpopts.IgnoreFields(proxy.Listener{}, "ID"), cmpopts.IgnoreFields(proxy.Server{}, "ID"), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), sorted, servers,
	}
	want := proxy.LoadBalancer{
		ID: lb.ID, Network: v.ID, CrossZone: true, CPS: 1000,
		Zones: []proxy.LBZone{{Zone: domaintest.ZoneH, Address: addr("10.0.1.100"), Local: []netip.Addr{addr("10.0.1.2"), addr("10.0.1.3")}}},
		Listeners: []proxy.Listener{{
			Protocol: verdict.TCP, Port: 443, ServerGroup: web.ID, IdleTimeout: 60, CPS: 100, MaxConnections: 200, MSS: 1400,
			Proxy: proxy.ProxyProtocol{Enabled: true, Dialect: proxy.ProxyAlibaba, VPC: true, Endpoint: true, Service: true},
		}, {
			Protocol: verdict.UDP, From: 1000, To: 2000, ServerGroup: quic.ID, IdleTimeout: 20,
			Proxy: proxy.ProxyProtocol{Enabled: true, Dialect: proxy.ProxyGCP, Endpoint: true},
		}},
	}
	if diff := cmp.Diff(want, set.LoadBalancers[lb.ID], anyID...); diff != "" {
		t.Errorf("load balancer:\n%s", diff)
	}
	groups := map[string]proxy.ServerGroup{
		web.ID: {
			ID: web.ID, Scheduler: proxy.WeightedLeastConns, Drain: 31, SlowStart: 32, FailClosed: true, ResetOnUnhealthy: true,
			Health: proxy.HealthCheck{
				Enabled: true, Type: proxy.HealthHTTP, Port: 81, Interval: 6, Timeout: 7, HealthyThreshold: 3, UnhealthyThreshold: 4, Proxy: true,
				HTTP: proxy.HTTPCheck{Method: "HEAD", Path: "/ok", Host: "orders.example", Version: "1.1", Codes: []string{"http_2xx", "http_4xx"}},
			},
			Servers: []proxy.Server{
				{Zone: domaintest.ZoneH, Address: netip.MustParseAddrPort("10.0.1.50:80")},
				{Address: netip.MustParseAddrPort("0.0.0.0:8080"), Name: "orders.example", Weight: 9},
			},
		},
		quic.ID: {
			ID: quic.ID, Scheduler: proxy.QUICConnectionHash, AnyPort: true, Health: proxy.HealthCheck{
				Enabled: true, Type: proxy.HealthUDP, Port: 53, Interval: 5, Timeout: 5, HealthyThreshold: 2, UnhealthyThreshold: 2,
				UDP: proxy.UDPCheck{Request: "ping", Expect: "pong"},
			},
		},
	}
	if diff := cmp.Diff(groups, set.ServerGroups, anyID...); diff != "" {
		t.Errorf("server groups:\n%s", diff)
	}
}
