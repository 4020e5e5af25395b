package domain_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// hostService offers a port of the host to the provider and attaches it.
func (c *campus) hostService(t *testing.T, name string, port int) *domain.Attachment {
	t.Helper()
	offer := must(c.Operator.CreateOffer(t.Context(), domain.OfferInput{
		AccountID: c.Provider.Account().ID, Label: name, Kind: domain.AttachHost, HostIP: "127.0.0.1", PortFrom: port, PortTo: port,
	}))(t)
	return must(c.Provider.CreateAttachment(t.Context(), domain.AttachmentInput{VPCID: c.vpc.ID, Name: name, Kind: domain.AttachHost, OfferID: offer.ID}))(t)
}

func TestCreateLoadBalancer(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	web := c.managed(t, c.h, "web-1", "10.0.1.17")
	tests := []struct {
		name   string
		change func(*domain.LoadBalancerInput)
		want   string
	}{
		{"as it is", func(*domain.LoadBalancerInput) {}, ""},
		{"without a name", func(in *domain.LoadBalancerInput) { in.Name = "" }, ""},
		{"without listeners", func(in *domain.LoadBalancerInput) { in.Listeners = nil }, ""},
		{"no zones", func(in *domain.LoadBalancerInput) { in.Zones = nil }, "zones: invalid_zones"},
		{"a zone twice", func(in *domain.LoadBalancerInput) { in.Zones = append(in.Zones, in.Zones[0]) }, "zones.2.zone_id: zone_twice"},
		{"the zone of another vSwitch", func(in *domain.LoadBalancerInput) { in.Zones[0].ZoneID = domaintest.ZoneI }, "zones.0.vswitch_id: vswitch_zone"},
		{"an address in use", func(in *domain.LoadBalancerInput) { in.Zones[0].Address = "10.0.1.17" }, "zones.0.address: address_in_use"},
		{"a bad name", func(in *domain.LoadBalancerInput) { in.Name = "1st" }, "name: invalid_name"},
		{"ports", func(in *domain.LoadBalancerInput) {
			in.Listeners[0].Port = 0
			in.Listeners = append(in.Listeners, domain.ListenerInput{Port: 65536}, domain.ListenerInput{Port: 80}, domain.ListenerInput{Port: 80})
		}, "listeners.0.port: invalid_port, listeners.1.port: invalid_port, listeners.3.port: port_in_use"},
		{"idle time-out", func(in *domain.LoadBalancerInput) { in.Listeners[0].IdleTimeout = 9 }, "listeners.0.idle_timeout: out_of_range"},
		{"health check", func(in *domain.LoadBalancerInput) {
			in.Listeners[0].Health = domain.HealthInput{Port: -1, Interval: 51, Timeout: 301, HealthyThreshold: 1, UnhealthyThreshold: 11}
		}, "listeners.0.health.port: out_of_range, listeners.0.health.timeout: out_of_range, listeners.0.health.interval: out_of_range, listeners.0.health.healthy_threshold: out_of_range, listeners.0.health.unhealthy_threshold: out_of_range"},
		{"a target", func(in *domain.LoadBalancerInput) { in.Listeners[0].Servers[0].Port = 0 }, "listeners.0.servers.0.port: invalid_port"},
		{"a target twice", func(in *domain.LoadBalancerInput) {
			in.Listeners[0].Servers = append(in.Listeners[0].Servers, in.Listeners[0].Servers[0])
		}, "listeners.0.servers.1.port: target_twice"},
		{"a group and targets", func(in *domain.LoadBalancerInput) { in.Listeners[0].ServerGroupID = "sgp-x" }, "listeners.0.server_group_id: group_and_servers"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := domain.LoadBalancerInput{
				Name: fmt.Sprintf("nlb-%d", i), VPCID: c.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: c.h.ID}, {ZoneID: domaintest.ZoneI, VSwitchID: c.i.ID}},
				Listeners: []domain.ListenerInput{{Port: 443, Servers: []domain.ServerInput{{AttachmentID: web.ID, Port: 8443}}}},
			}
			tt.change(&in)
			before := dump(t, c.Store)
			lb, err := p.CreateLoadBalancer(ctx, in)
			if got := faults(err); got != tt.want {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			if err != nil {
				if diff := cmp.Diff(before, dump(t, c.Store)); diff != "" {
					t.Errorf("what was refused changed something:\n%s", diff)
				}
				return
			}
			d := must(p.LoadBalancer(ctx, lb.ID))(t)
			if d.VPCName != "core" || len(d.Zones) != 2 || d.Zones[0].VSwitchName != "vsw-h" || len(d.Listeners) != len(in.Listeners) {
				t.Fatalf("made %+v", d)
			}
			if len(d.Listeners) > 0 {
				l := d.Listeners[0]
				if l.IdleTimeout != 900 || !l.Group.HealthEnabled || l.Group.HealthInterval != 5 || l.Servers[0].Weight != 100 ||
					l.Servers[0].Target != "10.0.1.17:8443" || l.Servers[0].Name != "web-1" || l.Servers[0].ZoneID != domaintest.ZoneH {
					t.Errorf("listener %+v", l)
				}
			}
		})
	}
}

// TestTargets tries what can be a target and what cannot.
func TestTargets(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	web := c.managed(t, c.h, "web-1", "10.0.1.17")
	db := c.hostService(t, "database", 5432)
	lb := must(p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
		Name: "nlb", VPCID: c.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: c.h.ID, Address: "10.0.1.100"}}, Listeners: []domain.ListenerInput{{Port: 443}},
	}))(t)
	group := must(p.LoadBalancer(ctx, lb.ID))(t).Listeners[0].Group.ID
	svc := must(p.CreateService(ctx, domain.ServiceInput{LoadBalancerIDs: []string{lb.ID}}))(t)
	g := must(p.CreateGroup(ctx, domain.GroupInput{VPCID: c.vpc.ID}))(t)
	must(p.CreateEndpoint(ctx, domain.EndpointInput{
		ServiceName: svc.ID, VPCID: c.vpc.ID, GroupIDs: []string{g.ID}, Zones: []domain.EndpointZoneInput{{VSwitchID: c.h.ID, Address: "10.0.1.200"}},
	}))(t)
	offer := must(c.Operator.CreateOffer(ctx, domain.OfferInput{Label: "door", Kind: domain.AttachPort, HostIP: "192.0.2.1", PortFrom: 80, PortTo: 80}))(t)
	door := must(p.CreateAttachment(ctx, domain.AttachmentInput{
		VPCID: c.vpc.ID, VSwitchID: c.h.ID, Kind: domain.AttachPort, OfferID: offer.ID, Address: "10.0.1.60", TargetIP: "10.0.1.17", TargetPort: 80,
	}))(t)
	elsewhere := must(p.CreateVPC(ctx, domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{{ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"}}}))(t)
	theirs := must(p.VSwitches(ctx, elsewhere.ID))(t)[0]
	other := c.managed(t, theirs.VSwitch, "other-1", "")

	tests := []struct {
		in   domain.ServerInput
		want string // zone and port, or the faults
	}{
		{domain.ServerInput{AttachmentID: web.ID, Port: 80}, domaintest.ZoneH + " 80"},
		{domain.ServerInput{AttachmentID: web.ID, Port: 81, ZoneID: domaintest.ZoneI}, "zone_id: target_zone"},
		{domain.ServerInput{AttachmentID: other.ID, Port: 80}, "attachment_id: attachment_not_found"},
		{domain.ServerInput{AttachmentID: door.ID, Port: 80}, "attachment_id: target_published_port"},
		{domain.ServerInput{AttachmentID: db.ID}, " 5432"},
		{domain.ServerInput{AttachmentID: db.ID, Port: 5433}, "port: host_port"},
		{domain.ServerInput{AttachmentID: db.ID, ZoneID: "cn-hangzhou-z"}, "zone_id: zone_without_vswitch"},
		{domain.ServerInput{Address: "10.0.1.17", Port: 82}, domaintest.ZoneH + " 82"},
		{domain.ServerInput{Address: " 10.0.2.9 ", Port: 80}, domaintest.ZoneI + " 80"},
		{domain.ServerInput{Address: "10.0.2.9", Port: 81}, domaintest.ZoneI + " 81"},
		{domain.ServerInput{Address: "10.0.1.1", Port: 80}, "address: target_gateway"},
		{domain.ServerInput{Address: "10.0.1.0", Port: 80}, "address: target_reserved"},
		{domain.ServerInput{Address: "10.0.1.255", Port: 80}, "address: target_reserved"},
		{domain.ServerInput{Address: "10.0.1.100", Port: 80}, "address: target_interface"},
		{domain.ServerInput{Address: "10.0.1.200", Port: 80}, "address: target_interface"},
		{domain.ServerInput{Address: "10.0.1.60", Port: 80}, "address: target_published_port"},
		{domain.ServerInput{Address: "10.0.9.9", Port: 80}, "address: target_outside"},
		{domain.ServerInput{Address: "192.168.0.9", Port: 80}, "address: target_outside"},
		{domain.ServerInput{Address: "127.0.0.1", Port: 80}, "address: target_reserved"},
		{domain.ServerInput{Address: "169.254.169.254", Port: 80}, "address: target_reserved"},
		{domain.ServerInput{Address: "100.100.100.200", Port: 80}, "address: target_reserved"},
		{domain.ServerInput{Address: "224.0.0.1", Port: 80}, "address: target_reserved"},
		{domain.ServerInput{Address: "0.0.0.0", Port: 80}, "address: target_reserved"},
		{domain.ServerInput{Address: "::1", Port: 80}, "address: invalid_address"},
		{domain.ServerInput{Address: "::ffff:127.0.0.1", Port: 80}, "address: invalid_address"},
		{domain.ServerInput{Address: "web-1", Port: 80}, "address: invalid_address"},
		{domain.ServerInput{Port: 80}, "address: invalid_address"},
		{domain.ServerInput{Address: "10.0.2.9", Port: 82, Weight: new(101)}, "weight: out_of_range"},
	}
	for _, tt := range tests {
		before := dump(t, c.Store)
		srv, err := p.AddServer(ctx, group, tt.in)
		got := faults(err)
		if err == nil {
			got = fmt.Sprintf("%s %d", srv.ZoneID, srv.Port)
		} else if diff := cmp.Diff(before, dump(t, c.Store)); diff != "" {
			t.Errorf("%+v was refused and changed something:\n%s", tt.in, diff)
		}
		if got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.in, got, tt.want)
		}
	}
}

// TestTargetAddress keeps an address that is a target from being given away, as long
// as one target has it.
func TestTargetAddress(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	lb := must(p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
		Name: "nlb", VPCID: c.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: c.h.ID, Address: "10.0.1.100"}},
		Listeners: []domain.ListenerInput{
			{Port: 80, Servers: []domain.ServerInput{{Address: "10.0.2.2", Port: 80}, {Address: "10.0.2.2", Port: 81}}},
			{Port: 443, Servers: []domain.ServerInput{{Address: "10.0.2.2", Port: 443}}},
		},
	}))(t)
	d := must(p.LoadBalancer(ctx, lb.ID))(t)
	next := func(want string) {
		t.Helper()
		if got := must(p.FreeAddress(ctx, c.i.ID))(t); got != want {
			t.Errorf("next free address %s, want %s", got, want)
		}
	}
	next("10.0.2.3")
	check(t, p.RemoveServer(ctx, d.Listeners[0].Servers[0].ID))
	next("10.0.2.3")
	check(t, p.DeleteListener(ctx, d.Listeners[0].ID)) // the other group has it now
	next("10.0.2.3")
	_, err := p.CreateAttachment(ctx, domain.AttachmentInput{VPCID: c.vpc.ID, VSwitchID: c.i.ID, Kind: domain.AttachManaged, Address: "10.0.2.2"})
	if got := faults(err); got != "address: address_in_use" || !strings.Contains(err.Error(), "nlb:443") {
		t.Errorf("an attachment at the address: %v", err)
	}
	err = p.DeleteVSwitch(ctx, c.i.ID)
	if fails(t, err, domain.Conflict, "vswitch_in_use"); !strings.Contains(err.Error(), "nlb:443") {
		t.Errorf("%v does not name the server group", err)
	}
	check(t, p.DeleteListener(ctx, d.Listeners[1].ID))
	next("10.0.2.2")
	check(t, p.DeleteVSwitch(ctx, c.i.ID))
}

func TestListeners(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	web := c.managed(t, c.h, "web-1", "")
	make1 := func(name string) *domain.LoadBalancer {
		return must(p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
			Name: name, VPCID: c.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: c.h.ID}},
			Listeners: []domain.ListenerInput{{Port: 80, Servers: []domain.ServerInput{{AttachmentID: web.ID, Port: 80}}}},
		}))(t)
	}
	one, two := make1("one"), make1("two")
	l := must(p.LoadBalancer(ctx, one.ID))(t).Listeners[0]
	// The group of one is what two sends to, too.
	shared := must(p.AddListener(ctx, two.ID, domain.ListenerInput{Port: 81, ServerGroupID: l.ServerGroupID}))(t)
	stale := c.staleSince(t, func() { check(t, p.UpdateServer(ctx, l.Servers[0].ID, 0)) })
	want := []string{"server_group " + l.ServerGroupID, "load_balancer " + one.ID, "load_balancer " + two.ID}
	if diff := cmp.Diff(sorted(want), sorted(stale)); diff != "" {
		t.Errorf("the engine looks at:\n%s", diff)
	}
	if got := faults(p.UpdateServer(ctx, l.Servers[0].ID, 101)); got != "weight: out_of_range" {
		t.Errorf("weight 101: %s", got)
	}
	check(t, p.UpdateListener(ctx, l.ID, domain.ListenerUpdate{Port: new(8080), IdleTimeout: new(60)}))
	check(t, p.UpdateServerGroup(ctx, l.ServerGroupID, domain.ServerGroupUpdate{Health: &domain.HealthInput{Interval: 1, Timeout: 1}}))
	d := must(p.LoadBalancer(ctx, one.ID))(t)
	if got := d.Listeners[0]; got.Port != 8080 || got.IdleTimeout != 60 || got.Group.HealthInterval != 1 || got.Group.HealthTimeout != 1 {
		t.Errorf("updated to %+v", got)
	}
	fails(t, p.UpdateListener(ctx, l.ID, domain.ListenerUpdate{Port: new(8081), Version: 1}), domain.Conflict, "load_balancer_changed")
	if got := faults(p.UpdateListener(ctx, shared.ID, domain.ListenerUpdate{Port: new(80)})); got != "port: port_in_use" {
		t.Errorf("the port of another listener: %s", got)
	}
	check(t, p.UpdateLoadBalancer(ctx, one.ID, domain.LoadBalancerUpdate{Name: new("uno"), CrossZone: new(true), Version: d.Version}))
	fails(t, p.UpdateLoadBalancer(ctx, one.ID, domain.LoadBalancerUpdate{Name: new("uno"), Version: d.Version}), domain.Conflict, "load_balancer_changed")

	check(t, p.DeleteLoadBalancer(ctx, one.ID)) // its group lives on with two
	d = must(p.LoadBalancer(ctx, two.ID))(t)
	if len(d.Listeners) != 2 || d.Listeners[1].Group.ID != l.ServerGroupID || len(d.Listeners[1].Servers) != 1 {
		t.Errorf("two has %+v", d.Listeners)
	}
	svc := must(p.CreateService(ctx, domain.ServiceInput{Name: "orders", LoadBalancerIDs: []string{two.ID}}))(t)
	err := p.DeleteLoadBalancer(ctx, two.ID)
	if fails(t, err, domain.Conflict, "load_balancer_in_use"); !strings.Contains(err.Error(), svc.ID) {
		t.Errorf("%v does not name the service", err)
	}
	check(t, p.DeleteService(ctx, svc.ID))
	check(t, p.DeleteLoadBalancer(ctx, two.ID))
	var left int64
	for _, model := range []any{&domain.ServerGroup{}, &domain.Server{}, &domain.Listener{}, &domain.LoadBalancerZone{}} {
		check(t, c.Store.DB().Model(model).Count(&left).Error)
		if left > 0 {
			t.Errorf("%d rows of %T are left", left, model)
		}
	}
	check(t, p.DeleteAttachment(ctx, web.ID))
}

// TestZoneHealth counts what flows of each zone can go to.
func TestZoneHealth(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	servers := must(p.LoadBalancer(ctx, m.balancer.ID))(t).Listeners[0].Servers
	report := func(i int, health string) {
		t.Helper()
		check(t, m.Store.System().Report(ctx, domain.Report{Servers: []domain.ServerReport{{ID: servers[i].ID, Health: health, Since: m.Clock.Now()}}}))
	}
	state := func(want ...string) {
		t.Helper()
		var got []string
		for _, z := range must(p.Service(ctx, m.service.ID))(t).Zones {
			got = append(got, fmt.Sprintf("%d/%d %s", z.Healthy, z.Total, z.State()))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("zones:\n%s", diff)
		}
	}
	state("0/1 unknown", "0/1 unknown")
	report(0, domain.HealthHealthy)
	state("1/1 healthy", "0/1 unknown")
	report(1, domain.HealthUnhealthy)
	state("1/1 healthy", "0/1 down")
	check(t, p.UpdateLoadBalancer(ctx, m.balancer.ID, domain.LoadBalancerUpdate{CrossZone: new(true)}))
	state("1/2 degraded", "1/2 degraded")
	check(t, p.UpdateLoadBalancer(ctx, m.balancer.ID, domain.LoadBalancerUpdate{CrossZone: new(false)}))
	check(t, p.UpdateServer(ctx, servers[0].ID, 0))
	state("0/1 unknown", "0/1 down") // drained
	db := m.hostService(t, "database", 5432)
	must(p.AddServer(ctx, servers[0].ServerGroupID, domain.ServerInput{AttachmentID: db.ID}))(t) // serves every zone
	m.Follow()
	state("1/2 degraded", "2/2 healthy")
	if sum := must(p.LoadBalancers(ctx, domain.Query{}))(t).Items[0]; sum.Healthy != 2 || sum.Total != 3 || sum.Services != 1 || sum.Listeners[0] != "TCP 443" || len(sum.Zones) != 2 {
		t.Errorf("in the list: %+v", sum)
	}
	check(t, p.UpdateServerGroup(ctx, servers[0].ServerGroupID, domain.ServerGroupUpdate{Health: &domain.HealthInput{Disabled: true}}))
	check(t, p.UpdateServer(ctx, servers[0].ID, 100))
	report(0, domain.HealthUnhealthy)
	state("2/2 healthy", "2/2 healthy") // not checked
}

func TestPublishHost(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	_, err := p.PublishHost(ctx, domain.PublishInput{Target: "127.0.0.1:5432"})
	if got := faults(err); got != "target: no_offer" {
		t.Errorf("without an offer: %s", got)
	}
	must(c.Operator.CreateOffer(ctx, domain.OfferInput{AccountID: p.Account().ID, Label: "this machine", Kind: domain.AttachHost, HostIP: "127.0.0.1"}))(t)
	for target, want := range map[string]string{
		"127.0.0.2:5432": "target: not_offered", "localhost:80": "target: invalid_target", "127.0.0.1": "target: invalid_target", "[::1]:80": "target: invalid_target", "127.0.0.1:0": "target: invalid_target",
	} {
		_, err := p.PublishHost(ctx, domain.PublishInput{Target: target})
		if got := faults(err); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
	_, err = p.PublishHost(ctx, domain.PublishInput{Target: "127.0.0.1:5432", Accounts: "me"})
	if got := faults(err); got != "accounts: invalid_account" {
		t.Errorf("a bad account: %s", got)
	}
	if page := must(p.Attachments(ctx, domain.Query{}))(t); len(page.Items) > 0 {
		t.Errorf("what failed left %+v", page.Items)
	}
	svc := must(p.PublishHost(ctx, domain.PublishInput{Target: " 127.0.0.1:5432 ", Accounts: c.Consumer.Account().ID}))(t)
	d := must(p.Service(ctx, svc.ID))(t)
	if len(d.Zones) != 2 || d.Zones[0].Total != 1 || d.Zones[1].Total != 1 || d.Whitelisted != 2 || d.Listeners[0] != "TCP 5432" {
		t.Errorf("made %+v", d)
	}
	groups := must(c.Store.System().EngineServerGroups(ctx, nil))(t)
	if srv := groups[0].Servers[0]; srv.Target != "127.0.0.1" || srv.Port != 5432 || !srv.Host || srv.ZoneID != "" {
		t.Errorf("the engine sends to %+v", srv)
	}
	_, err = c.Stranger.PublishHost(ctx, domain.PublishInput{Target: "127.0.0.1:5432"})
	fails(t, err, domain.Conflict, "no_vpc")
}

// TestBalancerZones adds zones and takes them away, with the addresses.
func TestBalancerZones(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	lb := must(p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{Name: "zonal", VPCID: m.vpc.ID, CPS: 1000, Zones: []domain.LBZoneInput{{VSwitchID: m.h.ID, Local: 2}}}))(t)
	zones := func() string {
		t.Helper()
		var out []string
		for _, z := range must(p.LoadBalancer(ctx, lb.ID))(t).Zones {
			out = append(out, fmt.Sprint(z.Address, z.Local))
		}
		return strings.Join(out, " ")
	}
	expect := func(want string) {
		t.Helper()
		if got := zones(); got != want {
			t.Errorf("zones %s, want %s", got, want)
		}
	}
	expect("10.0.1.2[10.0.1.3 10.0.1.4]")
	for _, n := range []int{-2, 1, 10} {
		if got := faults(p.UpdateLoadBalancerZone(ctx, lb.ID, domaintest.ZoneH, n, 0)); got != "local: invalid_local" {
			t.Errorf("%d further addresses: %q", n, got)
		}
	}
	check(t, p.UpdateLoadBalancerZone(ctx, lb.ID, domaintest.ZoneH, 4, 1))
	expect("10.0.1.2[10.0.1.3 10.0.1.4 10.0.1.5 10.0.1.6]")
	check(t, p.UpdateLoadBalancerZone(ctx, lb.ID, domaintest.ZoneH, 0, 2))
	expect("10.0.1.2[]")
	fails(t, p.RemoveLoadBalancerZone(ctx, lb.ID, domaintest.ZoneH, 0), domain.Conflict, "last_zone")
	if got := faults(p.AddLoadBalancerZone(ctx, lb.ID, domain.LBZoneInput{VSwitchID: m.h.ID}, 0)); got != "zone_id: zone_twice" {
		t.Errorf("the same zone again: %q", got)
	}
	fails(t, p.AddLoadBalancerZone(ctx, lb.ID, domain.LBZoneInput{VSwitchID: m.i.ID}, 1), domain.Conflict, "load_balancer_changed")
	check(t, p.AddLoadBalancerZone(ctx, lb.ID, domain.LBZoneInput{VSwitchID: m.i.ID, Local: 2}, 3))
	expect("10.0.1.2[] 10.0.2.2[10.0.2.3 10.0.2.4]")
	told := must(m.Store.System().EngineLoadBalancers(ctx, []string{lb.ID}))(t)
	if got := told[0].Zones[1].Local; strings.Join(got, " ") != "10.0.2.3 10.0.2.4" || told[0].CPS != 1000 {
		t.Errorf("the engine is told %+v", told)
	}
	check(t, p.RemoveLoadBalancerZone(ctx, lb.ID, domaintest.ZoneI, 0))
	expect("10.0.1.2[]")
	if got := must(p.FreeAddress(ctx, m.i.ID))(t); got != "10.0.2.2" {
		t.Errorf("next free address %s", got)
	}

	// What endpoints are connected through stays.
	ep := m.ask(t, "to-orders", m.sh)
	check(t, p.UpdateLoadBalancerZone(ctx, m.balancer.ID, domaintest.ZoneH, 2, 0))
	if got := must(p.Connection(ctx, ep.ID))(t).SeenAs; strings.Join(got, " ") != "10.0.1.3 10.0.1.4" {
		t.Errorf("its flows come from %v", got)
	}
	err := p.RemoveLoadBalancerZone(ctx, m.balancer.ID, domaintest.ZoneH, 0)
	if fails(t, err, domain.Conflict, "load_balancer_in_use"); !strings.Contains(err.Error(), m.service.ID) {
		t.Errorf("%v does not name the service", err)
	}
	check(t, p.RemoveResource(ctx, m.service.ID, m.balancer.ID, domaintest.ZoneI))
	check(t, p.RemoveLoadBalancerZone(ctx, m.balancer.ID, domaintest.ZoneI, 0))
}

// TestClassicBalancer is a load balancer with less to choose.
func TestClassicBalancer(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	zones := []domain.LBZoneInput{{VSwitchID: m.h.ID}, {VSwitchID: m.i.ID}}
	lb := must(p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{Name: "classic", VPCID: m.vpc.ID, Type: domain.TypeCLB, Zones: zones}))(t)
	if !lb.CrossZone || !strings.HasPrefix(lb.ID, "lb-") {
		t.Errorf("made %+v", lb)
	}
	_, err := p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{VPCID: m.vpc.ID, Type: "alb", Zones: zones})
	if got := faults(err); got != "type: invalid_type" {
		t.Errorf("an unknown type: %q", got)
	}
	if got := faults(p.UpdateLoadBalancer(ctx, lb.ID, domain.LoadBalancerUpdate{CrossZone: new(false)})); got != "cross_zone: nlb_only" {
		t.Errorf("zones apart: %q", got)
	}
	if got := faults(p.UpdateLoadBalancer(ctx, lb.ID, domain.LoadBalancerUpdate{CPS: new(1_000_001)})); got != "cps: out_of_range" {
		t.Errorf("too many new flows: %q", got)
	}
	fails(t, p.AddLoadBalancerZone(ctx, lb.ID, domain.LBZoneInput{VSwitchID: m.i.ID}, 0), domain.Limit, "zones_of_load_balancer")
	_, err = p.CreateService(ctx, domain.ServiceInput{LoadBalancerIDs: []string{m.balancer.ID, lb.ID}})
	if got := faults(err); got != "load_balancer_ids: types_differ" {
		t.Errorf("both in one service: %q", got)
	}
	if got := faults(p.AddResource(ctx, m.service.ID, domain.ResourceInput{LoadBalancerID: lb.ID})); got != "load_balancer_id: types_differ" {
		t.Errorf("added to a service of an NLB: %q", got)
	}
	svc := must(p.CreateService(ctx, domain.ServiceInput{LoadBalancerIDs: []string{lb.ID}}))(t)
	if svc.ResourceType != domain.TypeCLB {
		t.Errorf("the service is of type %s", svc.ResourceType)
	}
	empty := must(p.CreateService(ctx, domain.ServiceInput{RegionID: domaintest.Region, ResourceType: domain.TypeCLB}))(t)
	check(t, p.AddResource(ctx, empty.ID, domain.ResourceInput{LoadBalancerID: lb.ID}))
	_, err = p.CreateService(ctx, domain.ServiceInput{RegionID: domaintest.Region, ResourceType: "alb"})
	if got := faults(err); got != "resource_type: invalid_type" {
		t.Errorf("a service of an unknown type: %q", got)
	}
}
