package domain_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// report tells the store about one endpoint: zones by the last letter of their ids,
// "h i" for both carrying.
func (m *market) report(t *testing.T, ep string, version int64, carrying string) {
	t.Helper()
	zones := map[string]domain.ZoneReport{}
	for z := range strings.FieldsSeq(carrying) {
		zones[domaintest.Region+"-"+z] = domain.ZoneReport{Carrying: true}
	}
	check(t, m.Store.System().Report(t.Context(), domain.Report{Endpoints: []domain.EndpointReport{{ID: ep, Version: version, Zones: zones}}}))
}

// TestReports follows a connection of two zones by single reports.
func TestReports(t *testing.T) {
	m := newMarket(t)
	ep := m.ask(t, "to-orders", m.sh, m.si).ID
	version := func() int64 { return m.wants(t, ep).Version }
	steps := []struct {
		name     string
		do       func() error
		version  func() int64 // that is reported about; nil: the row's own
		carrying string
		want     string
	}{
		{"nothing carries", nil, nil, "", "Disconnected waiting, Active: Wait Wait"},
		{"one zone carries", func() error { return accept(t, m, ep) }, nil, "h", "Connecting accepted, Active: Connected Connecting"},
		{"both carry", nil, nil, "h i", "Connected accepted, Active: Connected Connected"},
		{"again", nil, nil, "h i", "Connected accepted, Active: Connected Connected"},
		{"one is lost", nil, nil, "h", "Connected accepted, Active: Connected Connecting"},
		{"and comes back", nil, nil, "i h", "Connected accepted, Active: Connected Connected"},
		{"rejected, and the report is older", func() error { return reject(t, m, ep) }, func() int64 { return version() - 1 }, "", "Disconnecting rejected, Active: Disconnecting Disconnecting"},
		{"one still carries", nil, nil, "h", "Disconnecting rejected, Active: Disconnecting Disconnected"},
		{"the report is of a version that never was", nil, func() int64 { return version() + 1 }, "", "Disconnecting rejected, Active: Disconnecting Disconnected"},
		{"undone, and the report is of the rejection", func() error { return undo(t, m, ep) }, func() int64 { return version() - 1 }, "", "Connecting accepted, Active: Connecting Connecting"},
		{"nothing carries yet", nil, nil, "", "Connecting accepted, Active: Connecting Connecting"},
		{"both carry again", nil, nil, "h i", "Connected accepted, Active: Connected Connected"},
		{"deleted, and the report is older", func() error { return remove(t, m, ep) }, func() int64 { return version() - 1 }, "", "Deleting accepted, Deleting: Deleting Deleting"},
		{"one still carries", nil, nil, "h", "Deleting accepted, Deleting: Deleting"},
	}
	for _, st := range steps {
		if st.do != nil {
			check(t, st.do())
		}
		of := version
		if st.version != nil {
			of = st.version
		}
		m.report(t, ep, of(), st.carrying)
		if got := m.states(t, ep); got != st.want {
			t.Fatalf("%s: %s, want %s", st.name, got, st.want)
		}
	}
	m.report(t, ep, version(), "")
	_, err := m.Consumer.Endpoint(t.Context(), ep)
	fails(t, err, domain.NotFound, "endpoint_not_found")

	provider := []string{
		"RequestConnection by peer", "AcceptConnection by user", "ZonesChanged by engine", "ConnectionConnected by engine", "ZonesChanged by engine", "ZonesChanged by engine",
		"RejectConnection by user", "ZonesChanged by engine", "UndoDecision by user", "ConnectionConnected by engine", "DeleteEndpoint by peer", "ZonesChanged by engine", "ConnectionDeleted by engine",
	}
	consumer := []string{
		"CreateEndpoint by user", "EndpointReady by engine", "AcceptConnection by peer", "ZonesChanged by engine", "ConnectionConnected by engine", "ZonesChanged by engine",
		"ZonesChanged by engine", "RejectConnection by peer", "ZonesChanged by engine", "UndoDecision by peer", "ConnectionConnected by engine", "DeleteEndpoint by user", "ZonesChanged by engine", "EndpointDeleted by engine",
	}
	if diff := cmp.Diff(provider, trail(t, m.Provider, ep)); diff != "" {
		t.Errorf("the provider's trail:\n%s", diff)
	}
	if diff := cmp.Diff(consumer, trail(t, m.Consumer, ep)); diff != "" {
		t.Errorf("the consumer's trail:\n%s", diff)
	}
}

// TestNothingNew reports what is known already: no row is written, and nobody is
// woken.
func TestNothingNew(t *testing.T) {
	m := newMarket(t)
	check(t, accept(t, m, m.ask(t, "to-orders", m.sh, m.si).ID))
	m.Follow()
	feed, stop := m.Store.Changes()
	defer stop()
	before := dump(t, m.Store)
	stale := m.staleSince(t, func() { m.Follow() })
	if diff := cmp.Diff(before, dump(t, m.Store)); diff != "" || len(stale) > 0 || len(feed) > 0 {
		t.Errorf("stale %v, %d changes, and:\n%s", stale, len(feed), diff)
	}
}

// TestReportOfMany brings more endpoints up than one transaction holds.
func TestReportOfMany(t *testing.T) {
	m := newMarket(t)
	check(t, m.Provider.UpdateService(t.Context(), m.service.ID, domain.ServiceUpdate{AutoAccept: new(true)}))
	const n = 120
	for range n {
		m.ask(t, "", m.sh)
	}
	m.Follow()
	page := must(m.Provider.Service(t.Context(), m.service.ID))(t)
	if page.Connected != n {
		t.Errorf("%d are connected, want %d", page.Connected, n)
	}
}

func TestZoneErrors(t *testing.T) {
	m := newMarket(t)
	ep := m.ask(t, "to-orders", m.sh).ID
	check(t, accept(t, m, ep))
	tell := func(carrying bool, problem string) domain.EndpointZone {
		t.Helper()
		check(t, m.Store.System().Report(t.Context(), domain.Report{Endpoints: []domain.EndpointReport{
			{ID: ep, Version: m.wants(t, ep).Version, Zones: map[string]domain.ZoneReport{domaintest.ZoneH: {Carrying: carrying, Error: problem}}},
		}}))
		return must(m.Consumer.Endpoint(t.Context(), ep))(t).Zones[0]
	}
	if z := tell(false, "address in use"); z.EngineError != "address in use" || z.Status != domain.ZoneConnecting {
		t.Errorf("not up: %+v", z)
	}
	if z := tell(true, "port 80: address in use"); z.EngineError != "port 80: address in use" || z.Status != domain.ZoneConnected {
		t.Errorf("half up: %+v", z)
	}
	if z := tell(true, ""); z.EngineError != "" {
		t.Errorf("up: %+v", z)
	}
}

// TestServiceZoneTrail enters into the trail when all targets of a zone fail, and
// when one is back; what happens in between is only shown.
func TestServiceZoneTrail(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	spare := m.managed(t, m.h, "orders-3", "")
	g := must(m.Provider.LoadBalancer(ctx, m.balancer.ID))(t).Listeners[0]
	must(m.Provider.AddServer(ctx, g.ServerGroupID, domain.ServerInput{AttachmentID: spare.ID, Port: 8443}))(t)
	m.Follow()
	var h []string // targets of zone h
	for _, srv := range must(m.Provider.LoadBalancer(ctx, m.balancer.ID))(t).Listeners[0].Servers {
		if srv.ZoneID == domaintest.ZoneH {
			h = append(h, srv.ID)
		}
	}
	before := len(trail(t, m.Provider, m.service.ID))
	feed, stop := m.Store.Changes()
	defer stop()
	for i, health := range []string{"unhealthy", "unhealthy", "unhealthy", "healthy", "healthy"} {
		check(t, m.Store.System().Report(ctx, domain.Report{Servers: []domain.ServerReport{
			{ID: h[i%2], Health: health, Reason: "CONNECT_TIMEOUT", Since: m.Clock.Now().Add(time.Duration(i) * time.Second)},
			{ID: "srv-unknown", Health: health},
		}}))
	}
	if diff := cmp.Diff([]string{"ServiceZoneDown by engine", "ServiceZoneUp by engine"}, trail(t, m.Provider, m.service.ID)[before:]); diff != "" {
		t.Errorf("trail:\n%s", diff)
	}
	var told []string
	for len(feed) > 0 {
		for _, ch := range <-feed {
			if ch.Kind != domain.KindAudit {
				told = append(told, ch.Kind+" "+ch.ID)
			}
		}
	}
	group := must(m.Provider.LoadBalancer(ctx, m.balancer.ID))(t).Listeners[0].Group.ID
	want := slices.Repeat([]string{"load_balancer " + m.balancer.ID, "server_group " + group, "service " + m.service.ID}, 4)
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("the consoles are told of:\n%s", diff)
	}
	if srv := must(m.Provider.LoadBalancer(ctx, m.balancer.ID))(t).Listeners[0].Servers; !slices.ContainsFunc(srv, func(s domain.ServerDetail) bool {
		return s.ID == h[0] && s.Health == "healthy" && s.HealthSince.Equal(m.Clock.Now().Add(4*time.Second))
	}) {
		t.Errorf("targets %+v", srv)
	}
}

func TestObjectReports(t *testing.T) {
	c := newCampus(t)
	ctx := t.Context()
	a := c.managed(t, c.h, "web-1", "")
	tell := func(up bool, problem string) {
		t.Helper()
		check(t, c.Store.System().Report(ctx, domain.Report{
			VPCs:        []domain.ObjectReport{{ID: c.vpc.ID, Up: up, Error: problem}, {ID: "vpc-unknown"}},
			Attachments: []domain.ObjectReport{{ID: a.ID, Up: up, Error: problem}},
		}))
	}
	for _, st := range []struct {
		up      bool
		problem string
	}{{true, ""}, {true, ""}, {false, "out of memory"}, {false, "out of devices"}, {true, ""}} {
		tell(st.up, st.problem)
		v, got := must(c.Provider.VPC(ctx, c.vpc.ID))(t), must(c.Provider.Attachment(ctx, a.ID))(t)
		if v.EngineUp != st.up || v.EngineError != st.problem || got.EngineUp != st.up || got.EngineError != st.problem {
			t.Errorf("told %+v: VPC %v %q, attachment %v %q", st, v.EngineUp, v.EngineError, got.EngineUp, got.EngineError)
		}
	}
	for id, want := range map[string][]string{
		c.vpc.ID: {"CreateVPC by user", "VPCUp by engine", "VPCDown by engine", "VPCUp by engine"},
		a.ID:     {"CreateAttachment by user", "AttachmentUp by engine", "AttachmentDown by engine", "AttachmentUp by engine"},
	} {
		if diff := cmp.Diff(want, trail(t, c.Provider, id)); diff != "" {
			t.Errorf("trail:\n%s", diff)
		}
	}
}

func TestChangedSince(t *testing.T) {
	m := newMarket(t)
	ctx, sys := t.Context(), m.Store.System()
	begin := must(sys.Revision(ctx))(t)
	since := func(rev int64, limit int) (refs []string, next int64, complete bool) {
		t.Helper()
		got, next, complete, err := sys.ChangedSince(ctx, rev, limit)
		check(t, err)
		for _, r := range got {
			refs = append(refs, r.Kind+" "+r.ID)
		}
		return refs, next, complete
	}
	if refs, next, complete := since(begin, 10); len(refs) > 0 || next != begin || !complete {
		t.Errorf("nothing changed: %v, %d, %v", refs, next, complete)
	}
	select { // what made the market has filled it
	case <-sys.Wake():
	default:
	}
	ep := m.ask(t, "to-orders", m.sh).ID
	select {
	case <-sys.Wake():
	default:
		t.Error("nobody was woken")
	}
	check(t, accept(t, m, ep))
	refs, next, complete := since(begin, 10)
	if diff := cmp.Diff(sorted([]string{"endpoint " + ep, "vpc " + m.shop.ID}), sorted(refs)); diff != "" || !complete || next != must(sys.Revision(ctx))(t) {
		t.Errorf("up to %d, complete %v:\n%s", next, complete, diff)
	}
	if _, again, complete := since(begin, 1); complete || again != begin {
		t.Errorf("more than the limit: next %d, complete %v", again, complete)
	}
	check(t, m.Store.DB().Exec("DELETE FROM engine_changes WHERE revision <= ?", begin+1).Error)
	if _, _, complete := since(begin, 10); complete {
		t.Error("complete, though a part is gone")
	}
	check(t, m.Store.DB().Exec("DELETE FROM engine_changes").Error)
	if _, _, complete := since(begin, 10); complete {
		t.Error("complete, though everything is gone")
	}
	if _, _, complete := since(next+1, 10); complete {
		t.Error("complete from a revision that never was")
	}
}

// TestEngineReads compares what the engine is told with what was made.
func TestEngineReads(t *testing.T) {
	m := newMarket(t)
	ctx, sys := t.Context(), m.Store.System()
	db := m.hostService(t, "database", 5432)
	lb := must(m.Provider.LoadBalancer(ctx, m.balancer.ID))(t)
	must(m.Provider.AddServer(ctx, lb.Listeners[0].ServerGroupID, domain.ServerInput{AttachmentID: db.ID}))(t)
	must(m.Provider.AddServer(ctx, lb.Listeners[0].ServerGroupID, domain.ServerInput{Address: "10.0.2.99", Port: 9000, Weight: new(7)}))(t)
	client := must(m.Consumer.CreateAttachment(ctx, domain.AttachmentInput{
		VPCID: m.shop.ID, VSwitchID: m.sh.ID, Kind: domain.AttachManaged, Address: "10.0.1.10", GroupIDs: []string{m.group.ID},
	}))(t)
	must(m.Consumer.AddRule(ctx, m.group.ID, web))(t)
	must(m.Consumer.AddRule(ctx, m.group.ID, domain.RuleInput{Direction: domain.Egress, Protocol: domain.ProtocolAll, Peer: "0.0.0.0/0"}))(t)
	must(m.Consumer.ReplaceRoutes(ctx, must(m.Consumer.VPC(ctx, m.shop.ID))(t).RouteTableID, []domain.RouteInput{{Destination: "192.0.2.0/24", NextHopID: client.ID}}, 0))(t)
	ep := m.ask(t, "to-orders", m.sh, m.si).ID

	for name, ids := range map[string]map[string][]string{"all": {}, "by id": {
		"vpc": {m.shop.ID, "vpc-gone"}, "lb": {m.balancer.ID}, "sgp": {lb.Listeners[0].ServerGroupID}, "sg": {m.group.ID}, "ep": {ep, "ep-gone"},
	}} {
		vpcs := must(sys.EngineVPCs(ctx, ids["vpc"]))(t)
		v := vpcs[slices.IndexFunc(vpcs, func(v domain.EngineVPC) bool { return v.ID == m.shop.ID })]
		if !slices.Equal(v.Addresses, []string{"10.0.1.2", "10.0.2.2"}) || len(v.VSwitches) != 2 || len(v.Attachments) != 1 || v.Attachments[0].ID != client.ID || len(v.Routes) != 1 {
			t.Errorf("%s: VPC %+v", name, v)
		}
		lbs := must(sys.EngineLoadBalancers(ctx, ids["lb"]))(t)
		if len(lbs) != 1 || len(lbs[0].Zones) != 2 || len(lbs[0].Listeners) != 1 || lbs[0].VPCID != m.vpc.ID {
			t.Errorf("%s: load balancers %+v", name, lbs)
		}
		var servers []string
		for _, g := range must(sys.EngineServerGroups(ctx, ids["sgp"]))(t) {
			for _, s := range g.Servers {
				servers = append(servers, fmt.Sprintf("%s:%d in %q, host %v, weight %d", s.Target, s.Port, strings.TrimPrefix(s.ZoneID, domaintest.Region+"-"), s.Host, s.Weight))
			}
		}
		want := []string{
			`10.0.1.17:8443 in "h", host false, weight 100`, `10.0.2.17:8443 in "i", host false, weight 100`,
			`10.0.2.99:9000 in "i", host false, weight 7`, `127.0.0.1:5432 in "", host true, weight 100`,
		}
		if diff := cmp.Diff(want, sorted(servers)); diff != "" {
			t.Errorf("%s: targets:\n%s", name, diff)
		}
		groups := must(sys.EngineGroups(ctx, ids["sg"]))(t)
		if len(groups) != 1 || len(groups[0].Rules) != 1 || groups[0].Rules[0].PortFrom != 443 || !slices.Equal(groups[0].Members, []string{"10.0.1.10"}) {
			t.Errorf("%s: groups %+v", name, groups)
		}
		eps := must(sys.EngineEndpoints(ctx, ids["ep"]))(t)
		if len(eps) != 1 || eps[0].Carry || eps[0].VPCID != m.shop.ID || len(eps[0].Zones) != 2 || eps[0].Zones[1].LoadBalancerID != m.balancer.ID || !slices.Equal(eps[0].Groups, []string{m.group.ID}) || eps[0].Version != 1 {
			t.Errorf("%s: endpoints %+v", name, eps)
		}
	}
	if none := must(sys.EngineEndpoints(ctx, []string{}))(t); len(none) > 0 {
		t.Errorf("no ids gave %+v", none)
	}
}
