package domain_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func TestCreateEndpoint(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	// A zone that the service is not in, and a region that it is not in.
	must(m.Operator.CreateZone(ctx, domain.ZoneInput{ID: domaintest.Region + "-j", RegionID: domaintest.Region}))(t)
	must(m.Operator.CreateRegion(ctx, domain.RegionInput{ID: "cn-beijing"}))(t)
	j := must(m.Consumer.CreateVSwitch(ctx, m.shop.ID, domain.VSwitchInput{ZoneID: domaintest.Region + "-j", CIDR: "10.0.3.0/24"}))(t)
	far := must(m.Consumer.CreateVPC(ctx, domain.VPCInput{RegionID: "cn-beijing", CIDR: "10.0.0.0/16"}))(t)
	strict := must(m.Consumer.CreateGroup(ctx, domain.GroupInput{VPCID: m.shop.ID, Type: domain.GroupEnterprise}))(t)
	elsewhere := must(m.Consumer.CreateVPC(ctx, domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
		{ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"},
	}}))(t)
	theirs := must(m.Consumer.VSwitches(ctx, elsewhere.ID))(t)[0]
	m.ask(t, "first", m.sh) // has 10.0.1.2

	zones := func(in ...domain.EndpointZoneInput) func(*domain.EndpointInput) {
		return func(e *domain.EndpointInput) { e.Zones = in }
	}
	tests := []struct {
		name   string
		change func(*domain.EndpointInput)
		want   string // faults
	}{
		{"as it is", func(*domain.EndpointInput) {}, ""},
		{"without zones", zones(), ""},
		{"by id", func(e *domain.EndpointInput) { e.ServiceName = " " + m.service.ID + "\n" }, ""},
		{"by the address of a page", func(e *domain.EndpointInput) {
			e.ServiceName = "https://console.example/a/1000000000000001/services/" + m.service.ID + "?tab=whitelist"
		}, ""},
		{"address chosen", zones(domain.EndpointZoneInput{VSwitchID: m.sh.ID, Address: "10.0.1.50"}), ""},
		{"an unknown service", func(e *domain.EndpointInput) { e.ServiceName = "epsrv-aaaaaaaaaaaaaaaaaaaa" }, "service_name: service_not_found"},
		{"no service", func(e *domain.EndpointInput) { e.ServiceName = "orders" }, "service_name: service_not_found"},
		{"a service name of another region", func(e *domain.EndpointInput) {
			e.ServiceName = strings.Replace(m.service.ServiceName(), domaintest.Region, "cn-beijing", 1)
		}, "service_name: service_not_found"},
		{"a VPC of another region", func(e *domain.EndpointInput) { e.VPCID = far.ID }, "vpc_id: region_differs"},
		{"everything wrong", func(e *domain.EndpointInput) {
			e.Name, e.Description, e.Message, e.GroupIDs = "1", "https://example.com", strings.Repeat("x", 501), nil
		}, "name: invalid_name, description: invalid_description, message: text_too_long, group_ids: missing_group"},
		{"groups of two types", func(e *domain.EndpointInput) { e.GroupIDs = append(e.GroupIDs, strict.ID) }, "group_ids: group_types"},
		{"too many groups", func(e *domain.EndpointInput) {
			e.GroupIDs = strings.Fields("a b c d e f g h i j k")
		}, "group_ids: too_many_groups"},
		{"a zone without a resource", zones(domain.EndpointZoneInput{VSwitchID: j.ID}), "zones.0.zone_id: zone_without_resource"},
		{"a vSwitch of another zone", zones(domain.EndpointZoneInput{ZoneID: domaintest.ZoneI, VSwitchID: m.sh.ID}), "zones.0.vswitch_id: vswitch_zone"},
		{"a vSwitch of another VPC", zones(domain.EndpointZoneInput{VSwitchID: theirs.ID}), "zones.0.vswitch_id: vswitch_not_found"},
		{"the same zone twice", zones(domain.EndpointZoneInput{VSwitchID: m.sh.ID}, domain.EndpointZoneInput{VSwitchID: m.sh.ID}), "zones.1.zone_id: zone_twice"},
		{"an address in use", zones(domain.EndpointZoneInput{VSwitchID: m.si.ID}, domain.EndpointZoneInput{VSwitchID: m.sh.ID, Address: "10.0.1.2"}), "zones.1.address: address_in_use"},
		{"an address outside", zones(domain.EndpointZoneInput{VSwitchID: m.sh.ID, Address: "10.0.2.9"}), "zones.0.address: address_outside"},
		{"the gateway", zones(domain.EndpointZoneInput{VSwitchID: m.sh.ID, Address: "10.0.1.1"}), "zones.0.address: address_reserved"},
		{"two zones wrong", zones(domain.EndpointZoneInput{VSwitchID: j.ID}, domain.EndpointZoneInput{VSwitchID: m.sh.ID, Address: "here"}), "zones.0.zone_id: zone_without_resource, zones.1.address: invalid_address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := domain.EndpointInput{
				ServiceName: m.service.ServiceName(), VPCID: m.shop.ID, GroupIDs: []string{m.group.ID},
				Zones: []domain.EndpointZoneInput{{VSwitchID: m.sh.ID}, {ZoneID: domaintest.ZoneI, VSwitchID: m.si.ID}},
			}
			tt.change(&in)
			before := dump(t, m.Store)
			ep, err := m.Consumer.CreateEndpoint(ctx, in)
			if got := faults(err); got != tt.want {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			if err != nil {
				if diff := cmp.Diff(before, dump(t, m.Store)); diff != "" {
					t.Errorf("what was refused changed something:\n%s", diff)
				}
				return
			}
			if d := must(m.Consumer.Endpoint(ctx, ep.ID))(t); len(d.Zones) != len(in.Zones) || len(d.Groups) != 1 || d.VPCName != "shop" || d.ProviderName != "provider" {
				t.Errorf("made %+v", d)
			}
		})
	}
	_, err := m.Consumer.CreateEndpoint(ctx, domain.EndpointInput{
		ServiceName: m.service.ID, VPCID: m.shop.ID, NewGroup: true, Zones: []domain.EndpointZoneInput{{VSwitchID: j.ID}},
	})
	if err == nil || !strings.Contains(err.Error(), domaintest.ZoneH+" and "+domaintest.ZoneI) {
		t.Errorf("got %v, want the zones that the service is in", err)
	}
}

// TestEndpointWithoutZones is connected all the same.
func TestEndpointWithoutZones(t *testing.T) {
	m := newMarket(t)
	ep := m.ask(t, "nowhere").ID
	check(t, accept(t, m, ep))
	m.Follow()
	if got := m.states(t, ep); got != "Connected accepted, Active:" {
		t.Fatalf("got %s", got)
	}
	check(t, m.Consumer.AddEndpointZone(t.Context(), ep, domain.EndpointZoneInput{VSwitchID: m.sh.ID}, 0))
	if got := m.states(t, ep); got != "Connected accepted, Pending: Connecting" {
		t.Fatalf("with a zone: %s", got)
	}
	m.Follow()
	if got := m.states(t, ep); got != "Connected accepted, Active: Connected" {
		t.Fatalf("once the engine has followed: %s", got)
	}
}

func TestSuggestedGroup(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	must(m.Provider.AddListener(ctx, m.balancer.ID, domain.ListenerInput{Port: 80}))(t)
	ep := must(m.Consumer.CreateEndpoint(ctx, domain.EndpointInput{ServiceName: m.service.ID, VPCID: m.shop.ID, NewGroup: true}))(t)
	d := must(m.Consumer.Endpoint(ctx, ep.ID))(t)
	if len(d.Groups) != 1 || d.Groups[0].Name != "to-orders" || fmt.Sprint(d.Openings) != "[TCP 80 TCP 443]" {
		t.Fatalf("groups %+v, openings %v", d.Groups, d.Openings)
	}
	g := must(m.Consumer.Group(ctx, d.Groups[0].ID))(t)
	want := []string{"ingress 1 accept tcp 80 10.0.0.0/16", "ingress 1 accept tcp 443 10.0.0.0/16"}
	var got []string
	for _, r := range g.Rules {
		got = append(got, r.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules:\n%s", diff)
	}
}

// TestAllocation gives new zones a load balancer of their own zone, and never one that
// is given by hand only.
func TestAllocation(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	names := map[string]string{m.balancer.ID: "first"}
	for _, name := range []string{"second", "by-hand"} {
		lb := must(m.Provider.CreateLoadBalancer(ctx, domain.LoadBalancerInput{Name: name, VPCID: m.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: m.h.ID}}}))(t)
		check(t, m.Provider.AddResource(ctx, m.service.ID, domain.ResourceInput{LoadBalancerID: lb.ID, Manual: name == "by-hand"}))
		names[lb.ID] = name
	}
	got := map[string]int{}
	for range 6 {
		for _, z := range m.wants(t, m.ask(t, "", m.sh, m.si).ID).Zones {
			got[z.ZoneID+" "+names[z.LoadBalancerID]]++
		}
	}
	if got[domaintest.ZoneI+" first"] != 6 || got[domaintest.ZoneH+" first"]+got[domaintest.ZoneH+" second"] != 6 {
		t.Errorf("allocated %v", got)
	}
}

func TestEndpointZones(t *testing.T) {
	m := newMarket(t)
	ctx, c := t.Context(), m.Consumer
	ep := m.ask(t, "to-orders", m.sh).ID
	add := func(vs domain.VSwitch) error {
		return c.AddEndpointZone(ctx, ep, domain.EndpointZoneInput{VSwitchID: vs.ID}, 0)
	}
	if got := faults(add(m.sh)); got != "zone_id: zone_twice" {
		t.Errorf("the same zone: %s", got)
	}
	check(t, add(m.si))
	if got := m.states(t, ep); got != "Disconnected waiting, Pending: Creating Creating" {
		t.Errorf("added while it waits: %s", got)
	}
	m.Follow()
	check(t, accept(t, m, ep))
	m.Follow()
	fails(t, c.RemoveEndpointZone(ctx, ep, "cn-hangzhou-z", domain.RemoveInput{}), domain.NotFound, "endpoint_zone_not_found")
	check(t, c.RemoveEndpointZone(ctx, ep, domaintest.ZoneI, domain.RemoveInput{}))
	fails(t, c.RemoveEndpointZone(ctx, ep, domaintest.ZoneI, domain.RemoveInput{}), domain.NotFound, "endpoint_zone_not_found")
	if got := m.states(t, ep); got != "Connected accepted, Pending: Connected Deleting" {
		t.Errorf("removed: %s", got)
	}
	if e := m.wants(t, ep); e.Zones[1].Carries() {
		t.Error("the removed zone still carries")
	}
	// Its address is not free before the engine has let go.
	_, err := c.CreateEndpoint(ctx, domain.EndpointInput{
		ServiceName: m.service.ID, VPCID: m.shop.ID, GroupIDs: []string{m.group.ID}, Zones: []domain.EndpointZoneInput{{VSwitchID: m.si.ID, Address: "10.0.2.2"}},
	})
	if got := faults(err); got != "zones.0.address: address_in_use" {
		t.Errorf("the address of the removed zone: %s", got)
	}
	m.Follow()
	if got := m.states(t, ep); got != "Connected accepted, Active: Connected" {
		t.Errorf("once the engine has followed: %s", got)
	}
	if got := must(c.FreeAddress(ctx, m.si.ID))(t); got != "10.0.2.2" {
		t.Errorf("next free address %s, want that of the zone that is gone", got)
	}
	check(t, add(m.si))
	if got := m.states(t, ep); got != "Connected accepted, Pending: Connected Connecting" {
		t.Errorf("added while it stands: %s", got)
	}
	m.Follow()
	if got := m.states(t, ep); got != "Connected accepted, Active: Connected Connected" {
		t.Errorf("at last: %s", got)
	}
	check(t, withdrawAll(t, m, ep))
	if err := add(m.si); reason(err) != "service_deleted" {
		t.Errorf("a zone for a deleted service: %v", err)
	}
}

// withdrawAll cuts a connection and deletes its service.
func withdrawAll(t *testing.T, m *market, ep string) error {
	t.Helper()
	check(t, reject(t, m, ep))
	m.Follow()
	return withdraw(t, m, ep)
}

func TestUpdateEndpoint(t *testing.T) {
	m := newMarket(t)
	ctx, c := t.Context(), m.Consumer
	ep := m.ask(t, "to-orders", m.sh)
	other := must(c.CreateGroup(ctx, domain.GroupInput{VPCID: m.shop.ID, Name: "others"}))(t)
	m.Follow()
	stale := m.staleSince(t, func() {
		check(t, c.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{Name: new("to-billing"), Version: 1}))
	})
	if len(stale) > 0 {
		t.Errorf("a name made the engine look at %v", stale)
	}
	fails(t, c.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{Name: new("late"), Version: 1}), domain.Conflict, "endpoint_changed")
	check(t, c.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{GroupIDs: &[]string{other.ID}}))
	if got := m.states(t, ep.ID); got != "Disconnected waiting, Pending: Wait" {
		t.Errorf("with other groups: %s", got)
	}
	if e := m.wants(t, ep.ID); !slices.Equal(e.Groups, []string{other.ID}) || e.Recheck {
		t.Errorf("the engine is told of groups %v, recheck %v", e.Groups, e.Recheck)
	}
	check(t, c.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{Recheck: new(true)}))
	if e := m.wants(t, ep.ID); !slices.Equal(e.Groups, []string{other.ID}) || !e.Recheck {
		t.Errorf("the engine is told of groups %v, recheck %v", e.Groups, e.Recheck)
	}
	if got := faults(c.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{GroupIDs: new([]string)})); got != "group_ids: missing_group" {
		t.Errorf("without a group: %s", got)
	}
	m.Follow()
	d := must(c.Endpoint(ctx, ep.ID))(t)
	if d.Name != "to-billing" || d.Status != domain.EndpointActive || len(d.Groups) != 1 || d.Groups[0].ID != other.ID {
		t.Errorf("got %+v", d)
	}
	check(t, c.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{Protected: new(true)}))
	fails(t, c.DeleteEndpoint(ctx, ep.ID, domain.RemoveInput{}), domain.Conflict, "endpoint_protected")
	check(t, c.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{Protected: new(false)}))
	check(t, c.DeleteEndpoint(ctx, ep.ID, domain.RemoveInput{}))
	fails(t, c.UpdateEndpoint(ctx, ep.ID, domain.EndpointUpdate{Name: new("late")}), domain.Conflict, "endpoint_status")
	m.Follow()
	if got := must(c.FreeAddress(ctx, m.sh.ID))(t); got != "10.0.1.2" {
		t.Errorf("next free address %s, want that of the endpoint that is gone", got)
	}
	check(t, c.DeleteGroup(ctx, other.ID)) // nothing holds it any more
}

// TestDeletionSurvivesARestart opens the store once more between a deletion and
// what the engine says to it.
func TestDeletionSurvivesARestart(t *testing.T) {
	m := newMarket(t)
	ep := m.ask(t, "to-orders", m.sh).ID
	check(t, accept(t, m, ep))
	m.Follow()
	late := domaintest.Followed(m.wants(t, ep)) // that everything carries
	check(t, remove(t, m, ep))
	again := domaintest.Open(t, m.Config)
	check(t, again.System().Report(t.Context(), domain.Report{Endpoints: []domain.EndpointReport{late}}))
	if got := m.states(t, ep); got != "Deleting accepted, Deleting: Deleting" {
		t.Fatalf("a late report made it %s", got)
	}
	wants := must(again.System().EngineEndpoints(t.Context(), nil))(t)
	check(t, again.System().Report(t.Context(), domain.Report{Endpoints: []domain.EndpointReport{domaintest.Followed(wants[0])}}))
	_, err := m.Consumer.Endpoint(t.Context(), ep)
	fails(t, err, domain.NotFound, "endpoint_not_found")
	if left := must(again.System().EngineEndpoints(t.Context(), nil))(t); len(left) > 0 {
		t.Errorf("the engine still sees %+v", left)
	}
}

// plane is a data plane that answers what it is told to.
type plane struct {
	probed []string
	result domain.ProbeResult
	domaintest.Recorded
}

func (p *plane) Counters(string) domain.Counters { return domain.Counters{Active: 3, In: 10, Out: 20} }

func (p *plane) Probe(_ context.Context, attachment string, target netip.AddrPort, http bool) (domain.ProbeResult, error) {
	p.probed = append(p.probed, attachment+" "+target.String())
	return p.result, nil
}

func (p *plane) Series(_ context.Context, q domain.SeriesQuery) (domain.Series, error) {
	return domaintest.SeriesOf(q), nil
}

func (p *plane) Status(context.Context) (domain.EngineStatus, error) {
	return domain.EngineStatus{}, nil
}

func TestTestEndpoint(t *testing.T) {
	m := newMarket(t)
	ctx, c := t.Context(), m.Consumer
	ep := m.ask(t, "to-orders", m.sh, m.si).ID
	attach := func(name string, vs domain.VSwitch) *domain.Attachment {
		return must(c.CreateAttachment(ctx, domain.AttachmentInput{VPCID: m.shop.ID, VSwitchID: vs.ID, Name: name, Kind: domain.AttachManaged}))(t)
	}
	one, two := attach("client-h", m.sh), attach("client-i", m.si)
	_, err := c.TestEndpoint(ctx, ep, domain.TestInput{})
	fails(t, err, domain.Conflict, "no_data_plane")
	p := &plane{result: domain.ProbeResult{OK: true, Status: 200}}
	m.Store.UseDataPlane(p)
	tests := []struct {
		in   domain.TestInput
		want string // what was probed, or the faults
	}{
		{domain.TestInput{}, one.ID + " 10.0.1.2:443"},
		{domain.TestInput{AttachmentID: two.ID}, two.ID + " 10.0.2.2:443"},
		{domain.TestInput{AttachmentID: two.ID, ZoneID: domaintest.ZoneH, Port: 443}, two.ID + " 10.0.1.2:443"},
		{domain.TestInput{AttachmentID: "att-aaaaaaaaaaaaaaaaaaaa"}, "attachment_id: attachment_not_found"},
		{domain.TestInput{ZoneID: "cn-hangzhou-z"}, "zone_id: endpoint_zone_not_found"},
		{domain.TestInput{Port: 22}, "port: port_not_found"},
	}
	for _, tt := range tests {
		p.probed = nil
		r, err := c.TestEndpoint(ctx, ep, tt.in)
		got := faults(err)
		if err == nil {
			got = strings.Join(p.probed, ", ")
			if !r.OK || r.Status != 200 || r.Refused != nil {
				t.Errorf("%+v: result %+v", tt.in, r)
			}
		}
		if got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.in, got, tt.want)
		}
	}
	p.result = domain.ProbeResult{Error: "reset"}
	p.Recorded = domaintest.Recorded{{
		Seq: 1, EndpointID: ep, Start: m.Clock.Now().Add(time.Second), Source: netip.MustParseAddrPort(one.Address + ":40000"), Address: netip.MustParseAddrPort("10.0.1.2:443"), Reason: domain.FlowDenied, Rule: "sgr-1",
	}}
	if r := must(c.TestEndpoint(ctx, ep, domain.TestInput{AttachmentID: one.ID}))(t); r.OK || r.Refused == nil || r.Refused.Rule != "sgr-1" {
		t.Errorf("refused: %+v", r)
	}
	if d := must(c.Endpoint(ctx, ep))(t); d.Counters.Active != 3 {
		t.Errorf("counters %+v", d.Counters)
	}
}
