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

// second makes another load balancer of the provider in zone h and attaches it to the
// service.
func (m *market) second(t *testing.T, manual bool) string {
	t.Helper()
	lb := must(m.Provider.CreateLoadBalancer(t.Context(), domain.LoadBalancerInput{
		Name: "nlb-orders-2", VPCID: m.vpc.ID, Zones: []domain.LBZoneInput{{VSwitchID: m.h.ID}},
		Listeners: []domain.ListenerInput{{Port: 443, Servers: []domain.ServerInput{{Address: "10.0.1.17", Port: 8443}}}},
	}))(t)
	check(t, m.Provider.AddResource(t.Context(), m.service.ID, domain.ResourceInput{LoadBalancerID: lb.ID, Manual: manual}))
	return lb.ID
}

// handOver lets new endpoints in zone h get the second load balancer only.
func (m *market) handOver(t *testing.T, second string) {
	t.Helper()
	check(t, m.Provider.UpdateResource(t.Context(), m.service.ID, domain.ResourceUpdate{LoadBalancerID: second, ZoneID: domaintest.ZoneH, AutoAllocate: true}))
	check(t, m.Provider.UpdateResource(t.Context(), m.service.ID, domain.ResourceUpdate{LoadBalancerID: m.balancer.ID, ZoneID: domaintest.ZoneH}))
}

// leads is what the engine shall do with zone h: "second beside first,
// era 0".
func (m *market) leads(t *testing.T, endpoint, second string) string {
	t.Helper()
	name := map[string]string{m.balancer.ID: "first", second: "second"}
	z := m.wants(t, endpoint).Zones[0]
	s := name[z.LoadBalancerID]
	if z.ReplacedID != "" {
		s += " beside " + name[z.ReplacedID]
	}
	return fmt.Sprintf("%s, era %d", s, z.Era)
}

// TestReplaceResource leads a zone to another load balancer, in both ways, and back.
func TestReplaceResource(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	second := m.second(t, true)
	m.handOver(t, second)
	ep := m.ask(t, "to-orders", m.sh, m.si).ID
	must(m.Provider.AllocateResource(ctx, ep, domaintest.ZoneH, domain.AllocateInput{LoadBalancerID: m.balancer.ID}))(t)
	check(t, accept(t, m, ep))
	m.Follow()
	replace := func(to string, force bool) func() error {
		return func() error {
			_, err := m.Provider.ReplaceResource(ctx, ep, domaintest.ZoneH, domain.ReplaceInput{LoadBalancerID: to, Force: force})
			return err
		}
	}
	closeReplaced := func() error {
		_, err := m.Provider.CloseReplaced(ctx, ep, domaintest.ZoneH, 0)
		return err
	}
	carry := func(zones string) func() error { return func() error { return flowing(zones)(t, m, ep) } }
	for i, st := range []struct {
		do     func() error
		states string
		leads  string
	}{
		{carry("h i"), "Connected accepted, Active: Connected Connected", "first, era 0"},
		{replace(second, false), "Connected accepted, Active: Migrating Connected", "second beside first, era 0"},
		{carry("i"), "Connected accepted, Active: Migrating Connected", "second beside first, era 0"},
		{carry("h i"), "Connected accepted, Active: Migrated Connected", "second beside first, era 0"},
		{carry("i"), "Connected accepted, Active: Connecting Connected", "second beside first, era 0"},
		{carry("h i"), "Connected accepted, Active: Migrated Connected", "second beside first, era 0"},
		{closeReplaced, "Connected accepted, Active: Migrating Connected", "second, era 0"},
		{carry("h i"), "Connected accepted, Active: Connected Connected", "second, era 0"},
		{func() error {
			return m.Provider.UpdateResource(ctx, m.service.ID, domain.ResourceUpdate{LoadBalancerID: m.balancer.ID, ZoneID: domaintest.ZoneH, AutoAllocate: true})
		}, "Connected accepted, Active: Connected Connected", "second, era 0"},
		{func() error {
			return m.Provider.UpdateResource(ctx, m.service.ID, domain.ResourceUpdate{LoadBalancerID: second, ZoneID: domaintest.ZoneH})
		}, "Connected accepted, Active: Connected Connected", "second, era 0"},
		{replace(m.balancer.ID, true), "Connected accepted, Active: Migrating Connected", "first, era 1"},
		{carry("h i"), "Connected accepted, Active: Connected Connected", "first, era 1"},
	} {
		check(t, st.do())
		if got := m.states(t, ep); got != st.states {
			t.Fatalf("step %d: %s, want %s", i+1, got, st.states)
		}
		if got := m.leads(t, ep, second); got != st.leads {
			t.Fatalf("step %d: leads to %s, want %s", i+1, got, st.leads)
		}
		if !m.carries(t, ep) {
			t.Fatalf("step %d: it no longer carries", i+1)
		}
	}
	all := strings.Join(trail(t, m.Provider, ep), ", ")
	for _, want := range []string{"AllocateResource by user", "ReplaceResource by user, ZonesChanged by engine", "CloseReplaced by user"} {
		if !strings.Contains(all, want) {
			t.Errorf("the provider's trail has no %s: %s", want, all)
		}
	}
	if got := trail(t, m.Consumer, ep); slices.Contains(got, "AllocateResource by peer") || !slices.Contains(got, "ReplaceResource by peer") {
		t.Errorf("the consumer's trail: %v", got)
	}
	page := must(m.Consumer.Audit(ctx, domain.AuditQuery{ResourceID: ep}))(t)
	for _, e := range page.Items {
		if strings.Contains(e.Before+e.After, second) || strings.Contains(e.Before+e.After, m.balancer.ID) {
			t.Errorf("the consumer's trail names a load balancer: %+v", e)
		}
	}
}

// TestReplacedDrains revokes a zone that has flows by two load balancers: both drain,
// and giving it back keeps both.
func TestReplacedDrains(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	ep := m.ask(t, "to-orders", m.sh).ID
	second := m.second(t, true)
	m.handOver(t, second)
	check(t, accept(t, m, ep))
	m.Follow()
	must(m.Provider.ReplaceResource(ctx, ep, domaintest.ZoneH, domain.ReplaceInput{LoadBalancerID: second}))(t)
	m.Follow()
	check(t, rejectIn(60)(t, m, ep))
	if got := m.leads(t, ep, second); got != "second beside first, era 0" {
		t.Errorf("while it drains: %s", got)
	}
	check(t, undo(t, m, ep))
	m.Follow()
	if got := m.states(t, ep) + ", " + m.leads(t, ep, second); got != "Connected accepted, Active: Migrated, second beside first, era 0" {
		t.Errorf("given back: %s", got)
	}
	check(t, reject(t, m, ep))
	m.Follow()
	if got := m.leads(t, ep, second); got != "second, era 0" {
		t.Errorf("once nothing is left: %s", got)
	}
}

func TestZoneRefusals(t *testing.T) {
	m := newMarket(t)
	ctx, p := t.Context(), m.Provider
	second := m.second(t, false)
	ep := m.ask(t, "to-orders", m.sh).ID
	must(p.AllocateResource(ctx, ep, domaintest.ZoneH, domain.AllocateInput{LoadBalancerID: m.balancer.ID}))(t)
	h := domaintest.ZoneH
	ops := map[string]func(zone string) error{
		"accept": func(zone string) error { _, err := p.AcceptZone(ctx, ep, zone, 0); return err },
		"reject": func(zone string) error { _, err := p.RejectZone(ctx, ep, zone, domain.RejectZoneInput{}); return err },
		"close":  func(zone string) error { _, err := p.CloseReplaced(ctx, ep, zone, 0); return err },
		"replace": func(zone string) error {
			_, err := p.ReplaceResource(ctx, ep, zone, domain.ReplaceInput{LoadBalancerID: second})
			return err
		},
		"allocate": func(zone string) error {
			_, err := p.AllocateResource(ctx, ep, zone, domain.AllocateInput{LoadBalancerID: second})
			return err
		},
	}
	refused := func(when string, want map[string]string) {
		t.Helper()
		for name, reason := range want {
			before := dump(t, m.Store)
			fails(t, ops[name](h), domain.Conflict, reason)
			if diff := cmp.Diff(before, dump(t, m.Store)); diff != "" {
				t.Errorf("%s: what was refused changed something:\n%s", when, diff)
			}
		}
	}
	for name, op := range ops {
		if err := op(domaintest.ZoneI); domain.KindOf(err) != domain.NotFound {
			t.Errorf("%s of a zone that it is not in: %v", name, err)
		}
	}
	const zone = "zone_status"
	refused("waiting", map[string]string{"accept": zone, "reject": zone, "close": zone, "replace": zone})
	check(t, accept(t, m, ep))
	refused("connecting", map[string]string{"accept": zone, "reject": zone, "close": zone, "replace": zone, "allocate": "connection_status"})
	m.Follow()
	refused("connected", map[string]string{"accept": zone, "close": zone, "replace": "resource_auto_allocated", "allocate": "connection_status"})
	m.handOver(t, second)
	for _, to := range []string{m.balancer.ID, "nlb-none", ""} {
		_, err := p.ReplaceResource(ctx, ep, h, domain.ReplaceInput{LoadBalancerID: to})
		if got := faults(err); got != "load_balancer_id: resource_not_found" {
			t.Errorf("replace by %q: %q", to, got)
		}
	}
	check(t, ops["replace"](h))
	refused("migrating", map[string]string{"accept": zone, "reject": zone, "close": zone, "replace": zone})
	m.Follow()
	refused("migrated", map[string]string{"accept": zone, "replace": zone})
	fails(t, p.RemoveResource(ctx, m.service.ID, m.balancer.ID, h), domain.Conflict, "resource_in_use")
	check(t, ops["close"](h))
	m.Follow()
	check(t, p.RemoveResource(ctx, m.service.ID, m.balancer.ID, h))
	check(t, ops["reject"](h))
	refused("disconnecting", map[string]string{"accept": zone, "reject": zone})
	m.Follow()
	if got := m.states(t, ep); got != "Connected accepted, Active: Disconnected" {
		t.Errorf("its only zone rejected: %s", got)
	}
	check(t, ops["accept"](h))
	m.Follow()
	if got := m.states(t, ep); got != "Connected accepted, Active: Connected" {
		t.Errorf("its only zone accepted: %s", got)
	}
	fails(t, p.UpdateResource(ctx, m.service.ID, domain.ResourceUpdate{LoadBalancerID: second, ZoneID: h}), domain.Conflict, "resource_auto_allocate")
	fails(t, p.UpdateResource(ctx, m.service.ID, domain.ResourceUpdate{LoadBalancerID: m.balancer.ID, ZoneID: h}), domain.NotFound, "load_balancer_not_found")
}

// TestRandomAllocation lets chance choose between two load balancers of a zone, and
// never takes one that is not given to new endpoints.
func TestRandomAllocation(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	second := m.second(t, false)
	led := map[string]int{}
	ep := m.ask(t, "to-orders", m.sh).ID
	again := func() string {
		must(m.Provider.AllocateResource(ctx, ep, domaintest.ZoneH, domain.AllocateInput{}))(t)
		return m.wants(t, ep).Zones[0].LoadBalancerID
	}
	for len(led) < 2 || led[second]+led[m.balancer.ID] < 20 { // it ends but for once in 2^20
		if led[again()]++; led[second]+led[m.balancer.ID] > 20 {
			t.Fatalf("chosen: %v", led)
		}
	}
	m.handOver(t, second)
	for range 20 {
		if got := again(); got != second {
			t.Fatalf("chose %s, which is not given to new endpoints", got)
		}
	}
	must(m.Provider.AllocateResource(ctx, ep, domaintest.ZoneH, domain.AllocateInput{LoadBalancerID: m.balancer.ID}))(t)
	if z := must(m.Provider.Connection(ctx, ep))(t).ZoneStates[0]; !z.Manual || z.LoadBalancerID != m.balancer.ID {
		t.Errorf("chosen by hand: %+v", z)
	}
	again()
	if z := must(m.Provider.Connection(ctx, ep))(t).ZoneStates[0]; z.Manual || z.LoadBalancerID != second {
		t.Errorf("left to chance again: %+v", z)
	}
}

// TestMoveResource empties a load balancer: what stands is led elsewhere without a
// cut, what waits will go elsewhere, and what is under way is left for another time.
func TestMoveResource(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	stands, under, waits, rejected := m.ask(t, "one", m.sh).ID, m.ask(t, "two", m.sh).ID, m.ask(t, "three", m.sh).ID, m.ask(t, "four", m.sh).ID
	second := m.second(t, true)
	check(t, accept(t, m, stands))
	check(t, accept(t, m, rejected))
	m.Follow()
	must(m.Provider.RejectZone(ctx, rejected, domaintest.ZoneH, domain.RejectZoneInput{}))(t)
	m.Follow()
	check(t, accept(t, m, under))
	in := domain.MoveInput{ZoneID: domaintest.ZoneH, From: m.balancer.ID, To: second}
	got := must(m.Provider.MoveResource(ctx, m.service.ID, in))(t)
	if want := (domain.MoveResult{Moved: 3, Left: 1}); got != want {
		t.Errorf("moved %+v, want %+v", got, want)
	}
	for ep, want := range map[string]string{
		stands: "second beside first, era 0", under: "first, era 0", waits: "second, era 0", rejected: "second, era 0",
	} {
		if got := m.leads(t, ep, second); got != want {
			t.Errorf("%s leads to %s, want %s", ep, got, want)
		}
	}
	m.Follow()
	in.Force = true
	if got := must(m.Provider.MoveResource(ctx, m.service.ID, in))(t); got != (domain.MoveResult{Moved: 1}) {
		t.Errorf("moved %+v", got)
	}
	if got := m.leads(t, under, second); got != "second, era 1" {
		t.Errorf("the one that was under way leads to %s", got)
	}
	for _, r := range must(m.Provider.Service(ctx, m.service.ID))(t).Resources {
		if r.ZoneID == domaintest.ZoneH && (r.AutoAllocate != (r.LoadBalancerID == second) || r.Replaced != map[string]int{m.balancer.ID: 1}[r.LoadBalancerID]) {
			t.Errorf("resource %+v", r)
		}
	}
	for field, in := range map[string]domain.MoveInput{
		"from": {ZoneID: domaintest.ZoneH, From: "nlb-none", To: second}, "to": {ZoneID: domaintest.ZoneH, From: second, To: second},
	} {
		_, err := m.Provider.MoveResource(ctx, m.service.ID, in)
		if got := faults(err); !strings.HasPrefix(got, field+": ") {
			t.Errorf("move %+v: %q", in, got)
		}
	}
}
