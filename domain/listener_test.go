package domain_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
)

// balancers are an NLB and a CLB of the campus, without listeners.
func (c *campus) balancers(t *testing.T) (nlb, clb *domain.LoadBalancer) {
	t.Helper()
	make1 := func(name, kind string) *domain.LoadBalancer {
		return must(c.Provider.CreateLoadBalancer(t.Context(), domain.LoadBalancerInput{
			Name: name, VPCID: c.vpc.ID, Type: kind, Zones: []domain.LBZoneInput{{VSwitchID: c.h.ID}},
		}))(t)
	}
	return make1("full", domain.TypeNLB), make1("classic", domain.TypeCLB)
}

// TestListenerParameters tries every parameter of a listener at and beyond its ends.
func TestListenerParameters(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	nlb, clb := c.balancers(t)
	check := domain.HealthInput{Port: 80} // targets of a range have none of their own
	tests := []struct {
		in   domain.ListenerInput
		want string // what it listens at, or the faults
	}{
		{domain.ListenerInput{Port: 443}, "TCP 443 900"},
		{domain.ListenerInput{Port: 65535, IdleTimeout: 10}, "TCP 65535 10"},
		{domain.ListenerInput{Protocol: "UDP", Port: 53}, "UDP 53 20"},
		{domain.ListenerInput{Protocol: "tcpssl", Port: 443}, "protocol: tcpssl"},
		{domain.ListenerInput{Protocol: "sctp", Port: 443}, "protocol: invalid_protocol"},
		{domain.ListenerInput{}, "port: invalid_port"},
		{domain.ListenerInput{Port: 65536}, "port: invalid_port"},
		{domain.ListenerInput{PortFrom: 1000, PortTo: 2000, Health: check}, "TCP 1000-2000 900"},
		{domain.ListenerInput{PortFrom: 1, PortTo: 65535, Health: check}, "TCP any port 900"},
		{domain.ListenerInput{PortFrom: 1000, PortTo: 2000}, "health.port: check_port"},
		{domain.ListenerInput{PortFrom: 1000, PortTo: 2000, Health: domain.HealthInput{Disabled: true}}, "TCP 1000-2000 900"},
		{domain.ListenerInput{Port: 80, PortTo: 2000}, "port: port_and_range"},
		{domain.ListenerInput{PortTo: 2000}, "port_from: invalid_port"},
		{domain.ListenerInput{PortFrom: 2000, PortTo: 1999}, "port_to: invalid_port"},
		{domain.ListenerInput{PortFrom: 2000, PortTo: 65536}, "port_to: invalid_port"},
		{domain.ListenerInput{Port: 80, IdleTimeout: 901}, "idle_timeout: out_of_range"},
		{domain.ListenerInput{Protocol: "udp", Port: 80, IdleTimeout: 21}, "idle_timeout: out_of_range"},
		{domain.ListenerInput{Port: 80, CPS: 1_000_001, MaxConnections: -1, MSS: 1501}, "cps: out_of_range, max_connections: out_of_range, mss: out_of_range"},
		{domain.ListenerInput{Port: 80, CPS: 1_000_000, MaxConnections: 1_000_000, MSS: 1500}, "TCP 80 900"},
		{domain.ListenerInput{Protocol: "udp", Port: 80, MSS: 1400}, "mss: tcp_only"},
		{domain.ListenerInput{Port: 80, Proxy: domain.ProxyProtocol{Enabled: true, VPC: true, Endpoint: true, Service: true}}, "TCP 80 900"},
		{domain.ListenerInput{Port: 80, Proxy: domain.ProxyProtocol{Enabled: true, Dialect: "aws", Endpoint: true}}, "TCP 80 900"},
		{domain.ListenerInput{Port: 80, Proxy: domain.ProxyProtocol{Enabled: true, Dialect: "gcp", Service: true}}, "proxy.dialect: proxy_ids"},
		{domain.ListenerInput{Port: 80, Proxy: domain.ProxyProtocol{Dialect: "ibm"}}, "proxy.dialect: invalid_dialect"},
		{domain.ListenerInput{Port: 80, Scheduler: "SCH"}, "TCP 80 900"},
		{domain.ListenerInput{Port: 80, Scheduler: "qch"}, "scheduler: udp_only"},
		{domain.ListenerInput{Protocol: "udp", Port: 443, Scheduler: "qch"}, "UDP 443 20"},
		{domain.ListenerInput{Port: 80, Scheduler: "best"}, "scheduler: invalid_scheduler"},
	}
	for _, tt := range tests {
		before := dump(t, c.Store)
		l, err := p.AddListener(ctx, nlb.ID, tt.in)
		got := faults(err)
		if err == nil {
			got = fmt.Sprint(l.Opening(), " ", l.IdleTimeout)
			if err := p.DeleteListener(ctx, l.ID); err != nil {
				t.Fatal(err)
			}
		} else if diff := cmp.Diff(before, dump(t, c.Store)); diff != "" {
			t.Errorf("%+v was refused and changed something:\n%s", tt.in, diff)
		}
		if got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.in, got, tt.want)
		}
	}

	for _, tt := range []struct {
		in   domain.ListenerInput
		want string
	}{
		{domain.ListenerInput{Port: 80}, ""},
		{domain.ListenerInput{PortFrom: 1000, PortTo: 2000, Health: check}, "port_from: nlb_only"},
		{domain.ListenerInput{Port: 81, CPS: 1, MSS: 1400, Proxy: domain.ProxyProtocol{Enabled: true}}, "cps: nlb_only, mss: nlb_only, proxy.enabled: nlb_only"},
		{domain.ListenerInput{Port: 81, Protocol: "udp", Scheduler: "qch"}, "scheduler: invalid_scheduler"},
	} {
		if _, err := p.AddListener(ctx, clb.ID, tt.in); faults(err) != tt.want {
			t.Errorf("of a CLB, %+v: %q, want %q", tt.in, faults(err), tt.want)
		}
	}
	g := must(p.LoadBalancer(ctx, clb.ID))(t).Listeners[0].Group
	if g.Type != domain.TypeCLB || g.HealthInterval != 2 || g.HealthTimeout != 5 || g.HealthyThreshold != 3 || g.UnhealthyThreshold != 3 {
		t.Errorf("the targets of a CLB are checked by %+v", g)
	}
}

// TestOverlappingListeners refuses a port that another listener of the protocol has.
func TestOverlappingListeners(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	nlb, _ := c.balancers(t)
	off := domain.HealthInput{Disabled: true}
	ranged := must(p.AddListener(ctx, nlb.ID, domain.ListenerInput{PortFrom: 1000, PortTo: 2000, Health: off}))(t)
	must(p.AddListener(ctx, nlb.ID, domain.ListenerInput{PortFrom: 3000, PortTo: 3999, Health: off}))(t)
	single := must(p.AddListener(ctx, nlb.ID, domain.ListenerInput{Port: 443}))(t)
	for _, tt := range []struct {
		in   domain.ListenerInput
		want string
	}{
		{domain.ListenerInput{Port: 443}, "port: port_in_use"},
		{domain.ListenerInput{Port: 1000}, "port: port_in_use"},
		{domain.ListenerInput{Port: 2000}, "port: port_in_use"},
		{domain.ListenerInput{PortFrom: 1, PortTo: 65535}, "port_from: port_in_use"},
		{domain.ListenerInput{PortFrom: 400, PortTo: 443}, "port_from: port_in_use"},
		{domain.ListenerInput{PortFrom: 1500, PortTo: 1600}, "port_from: port_in_use"},
		{domain.ListenerInput{Protocol: "udp", PortFrom: 1, PortTo: 65535, Health: off}, ""},
		{domain.ListenerInput{Port: 2001}, ""},
		{domain.ListenerInput{PortFrom: 2500, PortTo: 2999, Health: off}, ""},
	} {
		if _, err := p.AddListener(ctx, nlb.ID, tt.in); faults(err) != tt.want {
			t.Errorf("%+v: %q, want %q", tt.in, faults(err), tt.want)
		}
	}
	if got := faults(p.UpdateListener(ctx, ranged.ID, domain.ListenerUpdate{PortTo: new(2001)})); got != "port_from: port_in_use" {
		t.Errorf("a longer range: %q", got)
	}
	if err := p.UpdateListener(ctx, ranged.ID, domain.ListenerUpdate{PortFrom: new(1500)}); err != nil {
		t.Errorf("a shorter range: %v", err)
	}
	if err := p.UpdateListener(ctx, single.ID, domain.ListenerUpdate{Port: new(1000), MSS: new(1400), Proxy: &domain.ProxyProtocol{Enabled: true, Endpoint: true}}); err != nil {
		t.Errorf("another port: %v", err)
	}
	if l := must(p.LoadBalancer(ctx, nlb.ID))(t).Listeners; l[len(l)-2].Opening().String() != "TCP 1000" || l[len(l)-2].Proxy.Dialect != domain.ProxyAlibaba || l[len(l)-2].MSS != 1400 {
		t.Errorf("listeners %+v", l)
	}
}
