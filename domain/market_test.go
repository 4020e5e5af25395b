package domain_test

import (
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// market is a campus whose provider has a load balancer, 10.0.1.100 and 10.0.2.100,
// with a target in each zone, and the service orders, that the consumer is
// whitelisted for. The consumer has a VPC of the same range, and a group.
type market struct {
	*campus
	balancer *domain.LoadBalancer
	service  *domain.Service
	shop     *domain.VPC
	sh, si   domain.VSwitch
	group    *domain.SecurityGroup
}

func newMarket(t *testing.T) *market {
	t.Helper()
	return newMarketAt(t, "10.0")
}

// newMarketAt is newMarket where the consumer's addresses begin otherwise.
func newMarketAt(t *testing.T, prefix string) *market {
	t.Helper()
	ctx := t.Context()
	m := &market{campus: newCampus(t)}
	one, two := m.managed(t, m.h, "orders-1", "10.0.1.17"), m.managed(t, m.i, "orders-2", "10.0.2.17")
	m.balancer = must(m.Provider.CreateLoadBalancer(ctx, domain.LoadBalancerInput{
		Name: "nlb-orders", VPCID: m.vpc.ID,
		Zones: []domain.LBZoneInput{{VSwitchID: m.h.ID, Address: "10.0.1.100"}, {VSwitchID: m.i.ID, Address: "10.0.2.100"}},
		Listeners: []domain.ListenerInput{
			{Port: 443, Servers: []domain.ServerInput{{AttachmentID: one.ID, Port: 8443}, {AttachmentID: two.ID, Port: 8443}}},
		},
	}))(t)
	m.service = must(m.Provider.CreateService(ctx, domain.ServiceInput{
		Name: "orders", LoadBalancerIDs: []string{m.balancer.ID}, Accounts: m.Consumer.Account().ID,
	}))(t)
	m.shop = must(m.Consumer.CreateVPC(ctx, domain.VPCInput{
		Name: "shop", RegionID: domaintest.Region, CIDR: prefix + ".0.0/16", VSwitches: []domain.VSwitchInput{
			{Name: "shop-h", ZoneID: domaintest.ZoneH, CIDR: prefix + ".1.0/24"}, {Name: "shop-i", ZoneID: domaintest.ZoneI, CIDR: prefix + ".2.0/24"},
		},
	}))(t)
	switches := must(m.Consumer.VSwitches(ctx, m.shop.ID))(t)
	m.sh, m.si = switches[0].VSwitch, switches[1].VSwitch
	m.group = must(m.Consumer.CreateGroup(ctx, domain.GroupInput{VPCID: m.shop.ID, Name: "shop-clients"}))(t)
	return m
}

// ask makes an endpoint of the consumer to the service, in the vSwitches.
func (m *market) ask(t *testing.T, name string, in ...domain.VSwitch) *domain.Endpoint {
	t.Helper()
	zones := make([]domain.EndpointZoneInput, len(in))
	for i, vs := range in {
		zones[i].VSwitchID = vs.ID
	}
	return must(m.Consumer.CreateEndpoint(t.Context(), domain.EndpointInput{
		ServiceName: m.service.ServiceName(), VPCID: m.shop.ID, Name: name, Message: "Checkout needs it.", Zones: zones, GroupIDs: []string{m.group.ID},
	}))(t)
}

// states returns the status of a connection, its decision, the endpoint's status and
// those of its zones, in words.
func (m *market) states(t *testing.T, endpoint string) string {
	t.Helper()
	d := must(m.Consumer.Endpoint(t.Context(), endpoint))(t)
	s := string(d.Connection.Status) + " " + string(d.Connection.Decision) + ", " + string(d.Status) + ":"
	for _, z := range d.Zones {
		s += " " + string(z.Status)
	}
	return s
}

// wants returns what the engine shall do for an endpoint.
func (m *market) wants(t *testing.T, endpoint string) domain.EngineEndpoint {
	t.Helper()
	got := must(m.Store.System().EngineEndpoints(t.Context(), []string{endpoint}))(t)
	if len(got) != 1 {
		t.Fatalf("the engine sees %d endpoints %s", len(got), endpoint)
	}
	return got[0]
}

// carries reports whether the engine shall let anything pass.
func (m *market) carries(t *testing.T, endpoint string) bool {
	t.Helper()
	e := m.wants(t, endpoint)
	for _, z := range e.Zones {
		if e.Carry && z.Carries() {
			return true
		}
	}
	return false
}

// trail returns the actions in an account's trail about an object, oldest first,
// each with the kind of its actor.
func trail(t *testing.T, s *domain.Scope, id string) []string {
	t.Helper()
	page := must(s.Audit(t.Context(), domain.AuditQuery{Query: domain.Query{Limit: 200}, ResourceID: id}))(t)
	var out []string
	for _, e := range page.Items {
		out = append([]string{e.Action + " by " + e.ActorKind}, out...)
	}
	return out
}
