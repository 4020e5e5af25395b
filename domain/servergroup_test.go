package domain_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func TestServerGroups(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	web := c.managed(t, c.h, "web-1", "10.0.1.17")
	nlb, clb := c.balancers(t)
	g := must(p.CreateServerGroup(ctx, domain.ServerGroupInput{
		Name: "backends", VPCID: c.vpc.ID, Protocol: domain.ProtocolBoth, Drain: 900, Servers: []domain.ServerInput{
			{AttachmentID: web.ID, Port: 80}, {Address: "10.0.2.9", Port: 80, Weight: new(0)}, {DNSName: " DB.Example.internal. ", Port: 5432},
		},
	}))(t)
	tcp := must(p.AddListener(ctx, nlb.ID, domain.ListenerInput{Port: 80, ServerGroupID: g.ID}))(t)
	udp := must(p.AddListener(ctx, nlb.ID, domain.ListenerInput{Protocol: "udp", Port: 80, ServerGroupID: g.ID}))(t)
	_, err := p.AddListener(ctx, clb.ID, domain.ListenerInput{Port: 80, ServerGroupID: g.ID})
	if got := faults(err); got != "server_group_id: group_type" {
		t.Errorf("the group of an NLB behind a CLB: %q", got)
	}
	other := must(p.CreateServerGroup(ctx, domain.ServerGroupInput{Name: "datagrams", VPCID: c.vpc.ID, Protocol: domain.ProtocolUDP}))(t)
	if got := faults(p.UpdateListener(ctx, tcp.ID, domain.ListenerUpdate{ServerGroupID: &other.ID})); got != "server_group_id: group_protocol" {
		t.Errorf("a TCP listener to a UDP group: %q", got)
	}

	d := must(p.ServerGroup(ctx, g.ID))(t)
	var targets []string
	for _, s := range d.Servers {
		targets = append(targets, s.Target+" "+s.Name)
	}
	want := []string{"db.example.internal:5432 ", "10.0.1.17:80 web-1", "10.0.2.9:80 "}
	if diff := cmp.Diff(want, targets); diff != "" || d.VPCName != "core" || d.Servers[2].Weight != 0 {
		t.Errorf("targets:\n%s", diff)
	}
	if len(d.Listeners) != 2 || d.Listeners[0].BalancerName != "full" || d.Listeners[0].Protocol == d.Listeners[1].Protocol {
		t.Errorf("listeners %+v", d.Listeners)
	}
	if sum := must(p.ServerGroups(ctx, domain.Query{Filter: map[string][]string{"protocol": {domain.ProtocolBoth}}}))(t).Items; len(sum) != 1 || sum[0].Listeners != 2 || sum[0].Total != 3 || sum[0].VPCName != "core" {
		t.Errorf("in the list: %+v", sum)
	}

	stale := c.staleSince(t, func() {
		check(t, p.UpdateServerGroup(ctx, g.ID, domain.ServerGroupUpdate{Name: new("renamed"), Scheduler: new("wlc"), SlowStart: new(30), FailClosed: new(true), ResetOnUnhealthy: new(true), Version: d.Version}))
	})
	if diff := cmp.Diff(sorted([]string{"server_group " + g.ID, "load_balancer " + nlb.ID}), sorted(stale)); diff != "" {
		t.Errorf("the engine looks at:\n%s", diff)
	}
	fails(t, p.UpdateServerGroup(ctx, g.ID, domain.ServerGroupUpdate{Drain: new(1), Version: d.Version}), domain.Conflict, "server_group_changed")
	d = must(p.ServerGroup(ctx, g.ID))(t)
	if d.Name != "renamed" || d.Scheduler != domain.SchedulerWLC || d.SlowStart != 30 || d.Drain != 900 || !d.FailClosed || !d.ResetOnUnhealthy || d.HealthType != domain.HealthTCP {
		t.Errorf("updated to %+v", d.ServerGroup)
	}

	err = p.DeleteServerGroup(ctx, g.ID)
	if fails(t, err, domain.Conflict, "server_group_in_use"); !strings.Contains(err.Error(), nlb.ID) {
		t.Errorf("%v does not name the load balancer", err)
	}
	check(t, p.DeleteListener(ctx, tcp.ID))
	check(t, p.DeleteListener(ctx, udp.ID))
	if d := must(p.ServerGroup(ctx, g.ID))(t); len(d.Servers) != 3 {
		t.Errorf("what was made by itself went with its listeners: %+v", d)
	}
	check(t, p.DeleteServerGroup(ctx, g.ID))
	if _, err := p.ServerGroup(ctx, g.ID); domain.KindOf(err) != domain.NotFound {
		t.Errorf("after it was deleted: %v", err)
	}
	check(t, p.DeleteAttachment(ctx, web.ID)) // no target leads to it
}

// TestListenerChangesGroup leaves a group that was made with a listener to nobody.
func TestListenerChangesGroup(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	nlb, _ := c.balancers(t)
	l := must(p.AddListener(ctx, nlb.ID, domain.ListenerInput{Port: 80, Servers: []domain.ServerInput{{Address: "10.0.2.9", Port: 80}}}))(t)
	g := must(p.CreateServerGroup(ctx, domain.ServerGroupInput{VPCID: c.vpc.ID}))(t)
	check(t, p.UpdateListener(ctx, l.ID, domain.ListenerUpdate{ServerGroupID: &g.ID}))
	groups := must(p.ServerGroups(ctx, domain.Query{}))(t).Items
	if len(groups) != 1 || groups[0].ID != g.ID || groups[0].Listeners != 1 {
		t.Errorf("left: %+v", groups)
	}
}

// TestServerGroupParameters tries every parameter of a group at and beyond its ends.
func TestServerGroupParameters(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	db := c.hostService(t, "database", 5432)
	tests := []struct {
		name   string
		change func(*domain.ServerGroupInput)
		want   string
	}{
		{"as it is", func(*domain.ServerGroupInput) {}, ""},
		{"type", func(in *domain.ServerGroupInput) { in.Type = "alb" }, "type: invalid_type"},
		{"protocol", func(in *domain.ServerGroupInput) { in.Protocol = "icmp" }, "protocol: invalid_protocol"},
		{"name", func(in *domain.ServerGroupInput) { in.Name = "1" }, "name: invalid_name"},
		{"drain", func(in *domain.ServerGroupInput) { in.Drain = 901 }, "drain: out_of_range"},
		{"drain of a CLB", func(in *domain.ServerGroupInput) { in.Type, in.Drain = domain.TypeCLB, 9 }, "drain: out_of_range"},
		{"slow start", func(in *domain.ServerGroupInput) { in.SlowStart = -1 }, "slow_start: out_of_range"},
		{"QUIC over TCP", func(in *domain.ServerGroupInput) { in.Scheduler = "qch" }, "scheduler: udp_only"},
		{"QUIC", func(in *domain.ServerGroupInput) { in.Protocol, in.Scheduler = "udp", "qch" }, ""},
		{"QUIC of a CLB", func(in *domain.ServerGroupInput) {
			in.Type, in.Protocol, in.Scheduler = domain.TypeCLB, "udp", "qch"
		}, "scheduler: invalid_scheduler"},
		{"any port without a port of checks", func(in *domain.ServerGroupInput) { in.AnyPort = true }, "health.port: check_port"},
		{"any port of a CLB", func(in *domain.ServerGroupInput) { in.AnyPort, in.Type, in.Health.Port = true, domain.TypeCLB, 80 }, "any_port: nlb_only"},
		{"a port beside any port", func(in *domain.ServerGroupInput) {
			in.AnyPort, in.Health.Port, in.Servers = true, 80, []domain.ServerInput{{Address: "10.0.1.9", Port: 80}}
		}, "servers.0.port: any_port"},
		{"any port", func(in *domain.ServerGroupInput) {
			in.AnyPort, in.Health.Port, in.Servers = true, 80, []domain.ServerInput{{Address: "10.0.1.9"}, {DNSName: "db"}}
		}, ""},
		{"any port of the host", func(in *domain.ServerGroupInput) {
			in.AnyPort, in.Health.Port, in.Servers = true, 80, []domain.ServerInput{{AttachmentID: db.ID}}
		}, "servers.0.attachment_id: host_any_port"},
		{"a check of another port of the host", func(in *domain.ServerGroupInput) {
			in.Health.Port, in.Servers = 22, []domain.ServerInput{{AttachmentID: db.ID}}
		}, "servers.0.attachment_id: host_check_port"},
		{"a check of the host service", func(in *domain.ServerGroupInput) {
			in.Health.Port, in.Servers = 5432, []domain.ServerInput{{AttachmentID: db.ID}}
		}, ""},
		{"weights", func(in *domain.ServerGroupInput) {
			in.Servers = []domain.ServerInput{{Address: "10.0.1.9", Port: 80, Weight: new(-1)}, {Address: "10.0.1.9", Port: 80, Weight: new(0)}}
		}, "servers.0.weight: out_of_range"},
		{"a name twice", func(in *domain.ServerGroupInput) {
			in.Servers = []domain.ServerInput{{DNSName: "db.example", Port: 80}, {DNSName: "DB.example.", Port: 80}, {DNSName: "db.example", Port: 81}}
		}, "servers.1.port: target_twice"},
		{"bad names", func(in *domain.ServerGroupInput) {
			for _, n := range []string{"10.0.1.20", "a b", "-a.example", "a..b", "::1", strings.Repeat("a.", 127) + "a"} {
				in.Servers = append(in.Servers, domain.ServerInput{DNSName: n, Port: 80})
			}
		}, "servers.0.dns_name: invalid_dns_name, servers.1.dns_name: invalid_dns_name, servers.2.dns_name: invalid_dns_name, servers.3.dns_name: invalid_dns_name, servers.4.dns_name: invalid_dns_name, servers.5.dns_name: invalid_dns_name"},
		{"a name in a zone", func(in *domain.ServerGroupInput) {
			in.Servers = []domain.ServerInput{{DNSName: "db.example", Port: 80, ZoneID: domaintest.ZoneH}, {DNSName: "db.example", Port: 81, ZoneID: "cn-hangzhou-z"}}
		}, "servers.1.zone_id: zone_without_vswitch"},
		{"no check", func(in *domain.ServerGroupInput) { in.Health.Type = "icmp" }, "health.type: invalid_check"},
		{"an HTTP check", func(in *domain.ServerGroupInput) {
			in.Health = domain.HealthInput{Type: "HTTP", Method: "head", Path: "/ok?a=1", Host: "orders.example", HTTPVersion: "1.1", Codes: []string{"http_2xx", "http_3xx"}}
		}, ""},
		{"every fault of an HTTP check", func(in *domain.ServerGroupInput) {
			in.Health = domain.HealthInput{Type: "http", Method: "POST", Path: "/a b", Host: "a\r\nb", HTTPVersion: "2", Codes: []string{"200"}}
		}, "health.method: invalid_method, health.path: invalid_path, health.host: invalid_host, health.version: invalid_version, health.codes: invalid_codes"},
		{"a long path", func(in *domain.ServerGroupInput) {
			in.Health = domain.HealthInput{Type: "http", Path: "/" + strings.Repeat("a", 80)}
		}, "health.path: invalid_path"},
		{"a UDP check of TCP", func(in *domain.ServerGroupInput) { in.Health.Type = "udp" }, "health.type: udp_check"},
		{"a UDP check", func(in *domain.ServerGroupInput) {
			in.Protocol, in.Health = "udp", domain.HealthInput{Interval: 300, Timeout: 300, Request: "ping", Expect: "pong"}
		}, ""},
		{"a UDP check that outlasts its interval", func(in *domain.ServerGroupInput) {
			in.Protocol, in.Health = "udp", domain.HealthInput{Interval: 4}
		}, "health.interval: interval_below_timeout"},
		{"a UDP check of words", func(in *domain.ServerGroupInput) {
			in.Protocol, in.Health = "udp", domain.HealthInput{Request: "a b", Expect: strings.Repeat("a", 513)}
		}, "health.request: invalid_datagram, health.expect: invalid_datagram"},
		{"an answer to nothing", func(in *domain.ServerGroupInput) {
			in.Protocol, in.Health = "udp", domain.HealthInput{Expect: "pong"}
		}, "health.request: missing_datagram"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := domain.ServerGroupInput{VPCID: c.vpc.ID}
			tt.change(&in)
			before := dump(t, c.Store)
			g, err := p.CreateServerGroup(ctx, in)
			if got := faults(err); got != tt.want {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			if err == nil {
				check(t, p.DeleteServerGroup(ctx, g.ID))
			} else if diff := cmp.Diff(before, dump(t, c.Store)); diff != "" {
				t.Errorf("what was refused changed something:\n%s", diff)
			}
		})
	}

	g := must(p.CreateServerGroup(ctx, domain.ServerGroupInput{VPCID: c.vpc.ID, Servers: []domain.ServerInput{{AttachmentID: db.ID}}}))(t)
	if got := faults(p.UpdateServerGroup(ctx, g.ID, domain.ServerGroupUpdate{Health: &domain.HealthInput{Port: 22}})); got != "health.port: host_check_port" {
		t.Errorf("checks moved to another port of the host: %q", got)
	}
	check(t, p.UpdateServerGroup(ctx, g.ID, domain.ServerGroupUpdate{Health: &domain.HealthInput{Port: 5432}}))
	for _, tt := range []struct {
		in   domain.ServerGroupInput
		want [2]int // interval, timeout
	}{
		{domain.ServerGroupInput{}, [2]int{5, 5}},
		{domain.ServerGroupInput{Protocol: "udp"}, [2]int{5, 5}},
		{domain.ServerGroupInput{Protocol: "udp", Health: domain.HealthInput{Timeout: 60}}, [2]int{60, 60}},
		{domain.ServerGroupInput{Type: domain.TypeCLB}, [2]int{2, 5}},
		{domain.ServerGroupInput{Type: domain.TypeCLB, Protocol: "udp"}, [2]int{5, 10}},
	} {
		tt.in.VPCID = c.vpc.ID
		g := must(p.CreateServerGroup(ctx, tt.in))(t)
		if got := [2]int{g.HealthInterval, g.HealthTimeout}; got != tt.want {
			t.Errorf("%+v is checked every and within %v s, want %v", tt.in, got, tt.want)
		}
	}
}
