package domain_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

func TestCreateService(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	must(m.Operator.CreateRegion(ctx, domain.RegionInput{ID: "cn-beijing"}))(t)
	must(m.Operator.CreateZone(ctx, domain.ZoneInput{ID: "cn-beijing-a", RegionID: "cn-beijing"}))(t)
	far := must(p.CreateVPC(ctx, domain.VPCInput{RegionID: "cn-beijing", CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{{ZoneID: "cn-beijing-a", CIDR: "10.0.1.0/24"}}}))(t)
	farLB := must(p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{VPCID: far.ID, Zones: []domain.LBZoneInput{{VSwitchID: must(p.VSwitches(ctx, far.ID))(t)[0].ID}}}))(t)
	tests := []struct {
		name, want string
		in         domain.ServiceInput
	}{
		{"with its balancer's name", "", domain.ServiceInput{LoadBalancerIDs: []string{m.balancer.ID, m.balancer.ID}}},
		{"without load balancers", "", domain.ServiceInput{Name: "later", RegionID: domaintest.Region}},
		{"nowhere", "region_id: region_not_found", domain.ServiceInput{Name: "nowhere"}},
		{"in two regions", "load_balancer_ids: regions_differ", domain.ServiceInput{LoadBalancerIDs: []string{m.balancer.ID, farLB.ID}}},
		{"of no load balancer", "load_balancer_ids: load_balancer_not_found", domain.ServiceInput{LoadBalancerIDs: []string{"nlb-x"}}},
		{
			"everything wrong", "name: invalid_name, description: invalid_description, bandwidth: out_of_range, pending_expiry: out_of_range, payer: invalid_payer, accounts: invalid_account, accounts: invalid_account",
			domain.ServiceInput{Name: "?", Description: "http://x", LoadBalancerIDs: []string{m.balancer.ID}, Bandwidth: 50001, PendingExpiry: -1, Payer: "Nobody", Accounts: "me, you"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := dump(t, m.Store)
			svc, err := p.CreateService(ctx, tt.in)
			if got := faults(err); got != tt.want {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			if err != nil {
				if diff := cmp.Diff(before, dump(t, m.Store)); diff != "" {
					t.Errorf("what was refused changed something:\n%s", diff)
				}
				return
			}
			d := must(p.Service(ctx, svc.ID))(t)
			wantName, zones := tt.in.Name, 0
			if len(tt.in.LoadBalancerIDs) > 0 {
				wantName, zones = "nlb-orders", 2
			}
			if d.Status != domain.ServiceActive || d.Name != wantName || len(d.Zones) != zones || len(d.Resources) != zones || d.Payer != domain.PayerConsumer || d.Whitelisted != 1 {
				t.Errorf("made %+v", d)
			}
		})
	}
}

func TestUpdateService(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	check(t, p.UpdateService(ctx, m.service.ID, domain.ServiceUpdate{
		Name: new("billing"), Description: new("What is owed"), AutoAccept: new(true), Bandwidth: new(100), ZoneAffinity: new(true), PendingExpiry: new(8), Version: 1,
	}))
	d := must(p.Service(ctx, m.service.ID))(t)
	if d.Name != "billing" || d.Description != "What is owed" || !d.AutoAccept || d.Bandwidth != 100 || !d.ZoneAffinity || d.PendingExpiry != 8 || d.Version != 2 {
		t.Errorf("updated to %+v", d.Service)
	}
	if page := must(m.Consumer.Catalogue(ctx, domain.Query{}))(t); page.Items[0].Name != "billing" {
		t.Errorf("the catalogue says %+v", page.Items)
	}
	fails(t, p.UpdateService(ctx, m.service.ID, domain.ServiceUpdate{AutoAccept: new(false), Version: 1}), domain.Conflict, "service_changed")
	if got := faults(p.UpdateService(ctx, m.service.ID, domain.ServiceUpdate{Name: new("?"), Bandwidth: new(99)})); got != "name: invalid_name, bandwidth: out_of_range" {
		t.Errorf("got %s", got)
	}
	check(t, p.UpdateService(ctx, m.service.ID, domain.ServiceUpdate{Protected: new(true)}))
	fails(t, p.DeleteService(ctx, m.service.ID), domain.Conflict, "service_protected")
}

func TestResources(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	lb := must(p.CreateLoadBalancer(ctx, domain.LoadBalancerInput{Name: "second", VPCID: m.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: m.h.ID}}}))(t)
	later := must(p.CreateService(ctx, domain.ServiceInput{Name: "later", RegionID: domaintest.Region}))(t)
	add := func(svc string, in domain.ResourceInput) string { return faults(p.AddResource(ctx, svc, in)) }
	if got := add(later.ID, domain.ResourceInput{LoadBalancerID: lb.ID, Manual: true}); got != "manual: resource_auto_allocate" {
		t.Errorf("the first of a zone by hand: %s", got)
	}
	if got := add(later.ID, domain.ResourceInput{LoadBalancerID: lb.ID, ZoneID: domaintest.ZoneI}); got != "zone_id: balancer_not_in_zone" {
		t.Errorf("a zone that the balancer is not in: %s", got)
	}
	if got := add(m.service.ID, domain.ResourceInput{LoadBalancerID: m.balancer.ID}); got != "load_balancer_id: resource_exists" {
		t.Errorf("twice: %s", got)
	}
	check(t, p.AddResource(ctx, m.service.ID, domain.ResourceInput{LoadBalancerID: lb.ID, Manual: true}))
	fails(t, p.RemoveResource(ctx, m.service.ID, m.balancer.ID, domaintest.ZoneH), domain.Conflict, "resource_auto_allocate")
	ep := m.ask(t, "to-orders", m.si)
	err := p.RemoveResource(ctx, m.service.ID, m.balancer.ID, domaintest.ZoneI)
	if fails(t, err, domain.Conflict, "resource_in_use"); !strings.Contains(err.Error(), ep.ID) {
		t.Errorf("%v does not name the endpoint", err)
	}
	if d := must(p.Service(ctx, m.service.ID))(t); len(d.Resources) != 3 || d.Resources[2].Endpoints != 1 || d.Resources[2].Address != "10.0.2.100" {
		t.Errorf("resources %+v", d.Resources)
	}
	check(t, remove(t, m, ep.ID))
	m.Follow()
	check(t, p.RemoveResource(ctx, m.service.ID, m.balancer.ID, domaintest.ZoneI))
	check(t, p.RemoveResource(ctx, m.service.ID, lb.ID, domaintest.ZoneH))
	fails(t, p.RemoveResource(ctx, m.service.ID, lb.ID, domaintest.ZoneH), domain.NotFound, "load_balancer_not_found")
	check(t, p.DeleteLoadBalancer(ctx, lb.ID))
}

// TestDeleteService names who is connected, and leaves the endpoints of those who
// are not to their owners.
func TestDeleteService(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	var eps []string
	for i := range 8 {
		ep := m.ask(t, fmt.Sprintf("ep-%d", i), m.sh).ID
		check(t, accept(t, m, ep))
		eps = append(eps, ep)
	}
	waits := m.ask(t, "waits", m.sh).ID
	m.Follow()
	err := p.DeleteService(ctx, m.service.ID)
	if fails(t, err, domain.Conflict, "service_connected"); strings.Count(err.Error(), "ep-") != 5 || !strings.Contains(err.Error(), "3 more") {
		t.Errorf("%v", err)
	}
	for _, ep := range eps {
		check(t, reject(t, m, ep))
	}
	m.Follow()
	check(t, p.DeleteService(ctx, m.service.ID))
	for _, ep := range append(eps, waits) {
		if got := m.states(t, ep); !strings.HasPrefix(got, "ServiceDeleted rejected") {
			t.Errorf("endpoint: %s", got)
		}
	}
	if got := trail(t, m.Consumer, waits); got[len(got)-1] != "ServiceDeleted by peer" {
		t.Errorf("the consumer's trail: %v", got)
	}
	if waiting, _, _, _, err := p.ConnectionCounts(ctx); waiting != 0 || err != nil {
		t.Errorf("%d still wait, %v", waiting, err)
	}
	_, err = m.Consumer.FindService(ctx, m.service.ID)
	fails(t, err, domain.NotFound, "service_not_found")
	d := must(m.Consumer.Endpoint(ctx, waits))(t)
	if d.Offering != nil || len(d.Openings) != 0 {
		t.Errorf("the endpoint still shows %+v", d)
	}
	if c := must(p.Connection(ctx, waits))(t); c.ServiceName != m.service.ID {
		t.Errorf("the connection's service is called %q", c.ServiceName)
	}
	check(t, p.DeleteLoadBalancer(ctx, m.balancer.ID))
	for _, ep := range append(eps, waits) {
		check(t, remove(t, m, ep))
	}
	m.Follow()
	if page := must(m.Consumer.Endpoints(ctx, domain.Query{}))(t); len(page.Items) > 0 {
		t.Errorf("left: %+v", page.Items)
	}
	if page := must(p.Connections(ctx, domain.ConnQuery{}))(t); len(page.Items) > 0 {
		t.Errorf("left: %+v", page.Items)
	}
}
