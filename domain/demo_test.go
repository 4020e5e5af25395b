package domain_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// demo marks accounts, and the users who are in no other, as made by the demo.
func demo(t *testing.T, w *domaintest.World, scopes ...*domain.Scope) {
	t.Helper()
	for _, s := range scopes {
		check(t, w.Store.DB().Model(&domain.Account{}).Where("id = ?", s.Account().ID).Update("demo", true).Error)
		check(t, w.Store.DB().Exec("UPDATE users SET demo = true WHERE id IN (SELECT user_id FROM memberships WHERE account_id = ?)", s.Account().ID).Error)
	}
}

// TestRemoveDemo takes two of three accounts away: nothing is left that names them
// or what they had, and the third keeps what it has.
func TestRemoveDemo(t *testing.T) {
	f := build(t)
	ctx := t.Context()
	demo(t, f.World, f.Provider, f.Consumer)
	boss, err := f.Operator.CreateUser(ctx, domain.UserInput{Name: "boss", Operator: true, Demo: true})
	check(t, err)
	check(t, f.Operator.AddMember(ctx, f.Provider.Account().ID, boss.ID, domain.RoleOwner))
	session := f.Token(boss.ID)
	free, err := f.Operator.CreateOffer(ctx, domain.OfferInput{Label: "Services of this host", Kind: domain.AttachHost, HostIP: "127.0.0.1", Demo: true})
	check(t, err)
	check(t, f.Operator.SetQuota(ctx, f.Provider.Account().ID, "vpcs", 7))
	_, _, err = f.Provider.Once(ctx, token, "nothing", "", func(context.Context) (string, error) { return "", nil })
	check(t, err)

	gone := []string{f.Provider.Account().ID, f.Consumer.Account().ID, f.Provider.User().ID, f.Consumer.User().ID, free.ID}
	for id := range maps.Values(f.id) {
		gone = append(gone, id)
	}
	names := func(rows string) bool {
		return slices.ContainsFunc(gone, func(id string) bool { return strings.Contains(rows, `"`+id+`"`) })
	}
	for table, rows := range dump(t, f.Store) {
		if !names(rows) && !slices.Contains([]string{"Site.jsonl", "Region.jsonl", "Zone.jsonl", "Setting.jsonl"}, table) {
			t.Errorf("the demo has nothing in %s: this test does not see what becomes of it", table)
		}
	}
	check(t, f.Operator.RemoveDemo(ctx))

	for table, rows := range dump(t, f.Store) {
		for line := range strings.Lines(rows) {
			if strings.Contains(line, `"AccountID":"installation"`) {
				continue
			}
			if names(line) {
				t.Errorf("%s still has %s", table, line)
			}
		}
	}
	if vpcs, err := f.Stranger.VPCs(ctx, domain.Query{}); err != nil || len(vpcs.Items) == 0 {
		t.Errorf("the stranger's VPCs: %v, %v; want what it had", vpcs.Items, err)
	}
	i, err := f.Store.Identify(ctx, session)
	if err != nil || !i.Operator() || i.User().Demo {
		t.Errorf("the operator: %v; want them to stay signed in", err)
	}
	p, err := f.Operator.Audit(ctx, domain.AuditQuery{Action: "RemoveDemo"})
	check(t, err)
	if len(p.Items) != 1 || !strings.Contains(p.Items[0].Before, f.Provider.Account().ID) {
		t.Errorf("the installation's trail: %+v", p.Items)
	}
	for name, verify := range map[string]func() (domain.AuditCheck, error){
		"installation": func() (domain.AuditCheck, error) { return f.Operator.VerifyAudit(ctx) },
		"stranger":     func() (domain.AuditCheck, error) { return f.Stranger.VerifyAudit(ctx) },
	} {
		if c, err := verify(); err != nil || c.Entries == 0 || c.BrokenAt != 0 {
			t.Errorf("trail of %s: %+v, %v", name, c, err)
		}
	}
	var stale []string
	check(t, f.Store.DB().Raw("SELECT id FROM engine_changes").Scan(&stale).Error)
	if !slices.Contains(stale, f.id["VPC"]) || !slices.Contains(stale, f.id["group"]) {
		t.Errorf("the engine is not told of what is gone: %v", stale)
	}

	before := dump(t, f.Store)
	check(t, f.Operator.RemoveDemo(ctx))
	for table, rows := range dump(t, f.Store) {
		if rows != before[table] {
			t.Errorf("without a demo, %s changed", table)
		}
	}
}

// TestRemoveDemoWithPeers takes the demo away from accounts that have joined it.
func TestRemoveDemoWithPeers(t *testing.T) {
	w := domaintest.New(t)
	ctx := t.Context()
	type side struct {
		*domain.Scope
		vpc *domain.VPCDetail
		svc *domain.Service
	}
	settle := func(s *domain.Scope, peer string) side {
		v := must(s.CreateVPC(ctx, domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
			{ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"},
		}}))(t)
		d := must(s.VPC(ctx, v.ID))(t)
		lb := must(s.CreateLoadBalancer(ctx, domain.LoadBalancerInput{VPCID: v.ID, Zones: []domain.LBZoneInput{{VSwitchID: d.VSwitches[0].ID}}, Listeners: []domain.ListenerInput{
			{Port: 80, Servers: []domain.ServerInput{{Address: "10.0.1.50", Port: 80}}},
		}}))(t)
		svc := must(s.CreateService(ctx, domain.ServiceInput{Name: "orders", LoadBalancerIDs: []string{lb.ID}, Accounts: peer}))(t)
		return side{s, d, svc}
	}
	connect := func(s, to side) *domain.Endpoint {
		return must(s.CreateEndpoint(ctx, domain.EndpointInput{
			ServiceName: to.svc.ID, VPCID: s.vpc.ID, Zones: []domain.EndpointZoneInput{{VSwitchID: s.vpc.VSwitches[0].ID}}, NewGroup: true,
		}))(t)
	}
	shown := settle(w.Provider, w.Consumer.Account().ID) // the demo
	real := settle(w.Consumer, w.Provider.Account().ID)
	in, out := connect(real, shown), connect(shown, real)
	demo(t, w, w.Provider)

	must(shown.AcceptConnection(ctx, in.ID, domain.AcceptInput{}))(t)
	before := dump(t, w.Store)
	err := w.Operator.RemoveDemo(ctx)
	fails(t, err, domain.Conflict, "demo_in_use")
	if err == nil || !strings.Contains(err.Error(), in.ID+" of account "+w.Consumer.Account().ID) {
		t.Errorf("%v: want the endpoint by name", err)
	}
	for table, rows := range dump(t, w.Store) {
		if rows != before[table] {
			t.Errorf("refused, and %s changed", table)
		}
	}

	// As if the engine had reported that nothing is left of it.
	must(shown.RejectConnection(ctx, in.ID, domain.RejectInput{}))(t)
	check(t, w.Store.DB().Model(&domain.Connection{}).Where("endpoint_id = ?", in.ID).Update("status", domain.Disconnected).Error)
	check(t, w.Operator.RemoveDemo(ctx))

	d := must(w.Consumer.Endpoint(ctx, in.ID))(t)
	if d.Connection.Status != domain.ServiceDeleted {
		t.Errorf("the connection to the demo is %s, want ServiceDeleted", d.Connection.Status)
	}
	if p := must(w.Consumer.Connections(ctx, domain.ConnQuery{}))(t); len(p.Items) != 0 {
		t.Errorf("the demo's endpoint %s is still connected: %+v", out.ID, p.Items)
	}
	if p := must(w.Consumer.Whitelist(ctx, real.svc.ID, domain.Query{}))(t); slices.ContainsFunc(p.Items, func(e domain.WhitelistEntry) bool { return e.UserAccountID == w.Provider.Account().ID }) {
		t.Errorf("the demo is still whitelisted: %+v", p.Items)
	}
	check(t, w.Consumer.DeleteEndpoint(ctx, in.ID, domain.RemoveInput{})) // it can be put away
}
