package domain_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func TestQuota(t *testing.T) {
	w := domaintest.New(t)
	ctx, s := t.Context(), w.Provider
	check(t, domain.Use(ctx, s, "vpcs", 49))
	err := domain.Use(ctx, s, "vpcs", 50)
	fails(t, err, domain.Limit, "quota_vpcs")
	if want := "quota_vpcs: The limit of VPCs is 50, and this would make 51. An operator can raise it."; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	check(t, w.Operator.SetQuota(ctx, s.Account().ID, "vpcs", 60))
	check(t, w.Operator.SetQuota(ctx, s.Account().ID, "vpcs", 51))
	check(t, domain.Use(ctx, s, "vpcs", 50))
	fails(t, domain.Use(ctx, s, "vpcs", 51), domain.Limit, "quota_vpcs")
	fails(t, domain.Use(ctx, w.Consumer, "vpcs", 50), domain.Limit, "quota_vpcs") // its own are as before
	check(t, w.Operator.SetQuota(ctx, s.Account().ID, "vpcs", 0))
	fails(t, domain.Use(ctx, s, "vpcs", 0), domain.Limit, "quota_vpcs")
	check(t, w.Operator.SetQuota(ctx, s.Account().ID, "vpcs", -1))
	check(t, domain.Use(ctx, s, "vpcs", 49))
	fails(t, w.Operator.SetQuota(ctx, s.Account().ID, "unicorns", 1), domain.Invalid, "invalid_quota")
	fails(t, w.Operator.SetQuota(ctx, "1999999999999999", "vpcs", 1), domain.NotFound, "account_not_found")
	if err := domain.Use(ctx, s, "unicorns", 0); err == nil {
		t.Error("a quota that does not exist refuses nothing")
	}
}

// TestQuotasCount gives an account two of each parent, one with one child of a kind
// and one with three.
func TestQuotasCount(t *testing.T) {
	w := domaintest.New(t)
	ctx, now, id := t.Context(), w.Clock.Now(), w.Provider.Account().ID
	row := func(v any) {
		t.Helper()
		check(t, w.Store.DB().Create(v).Error)
	}
	for parent, children := range []int{1, 3} {
		p := fmt.Sprint("parent-", parent)
		row(&domain.VPC{ID: p, AccountID: id, RegionID: domaintest.Region, CreatedAt: now})
		row(&domain.SecurityGroup{ID: p, AccountID: id, VPCID: p, CreatedAt: now})
		row(&domain.LoadBalancer{ID: p, AccountID: id, VPCID: p, CreatedAt: now})
		row(&domain.ServerGroup{ID: p, AccountID: id, VPCID: p, CreatedAt: now})
		row(&domain.Service{ID: p, AccountID: id, RegionID: domaintest.Region, CreatedAt: now, UpdatedAt: now})
		row(&domain.RouteTable{ID: p, AccountID: id, VPCID: p, CreatedAt: now})
		for child := range children {
			c := fmt.Sprint(p, "-child-", child)
			row(&domain.VSwitch{ID: c, AccountID: id, VPCID: p, ZoneID: domaintest.ZoneH, CreatedAt: now})
			row(&domain.SecurityRule{ID: c, AccountID: id, GroupID: p, CreatedAt: now})
			row(&domain.Attachment{ID: c, AccountID: id, VPCID: p, CreatedAt: now})
			row(&domain.AttachmentGroup{AttachmentID: c, GroupID: p, AccountID: id})
			row(&domain.Listener{ID: c, AccountID: id, LoadBalancerID: p, ServerGroupID: p, Port: child + 1})
			row(&domain.Server{ID: c, AccountID: id, ServerGroupID: p, HealthSince: now})
			row(&domain.ServiceResource{ServiceID: p, LoadBalancerID: p, ZoneID: c, AccountID: id})
			row(&domain.ServiceUser{ServiceID: p, UserAccountID: c, AccountID: id, CreatedAt: now})
			row(&domain.Endpoint{ID: c, AccountID: id, VPCID: p, CreatedAt: now, UpdatedAt: now})
			row(&domain.Route{TableID: p, Destination: c, AccountID: id})
		}
	}
	check(t, w.Operator.SetQuota(ctx, id, "services", 7))

	want := map[string][2]int{ // used, limit
		"vpcs": {2, 50}, "vswitches_per_vpc": {3, 50}, "security_groups": {2, 100}, "rules_per_group": {3, 200},
		"groups_per_attachment": {1, 5}, "attachments_per_vpc": {3, 200}, "load_balancers": {2, 50}, "listeners_per_balancer": {3, 50},
		"server_groups": {2, 500}, "servers_per_group": {3, 200}, "services": {2, 7}, "resources_per_service": {3, 500}, "whitelist_per_service": {3, 1000},
		"endpoints_per_vpc": {3, 1000}, "routes_per_table": {3, 200},
	}
	uses, err := w.Provider.Quotas(ctx)
	check(t, err)
	got := map[string][2]int{}
	for _, q := range uses {
		got[q.Name] = [2]int{q.Used, q.Limit}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	same, err := w.Operator.Quotas(ctx, id)
	check(t, err)
	if diff := cmp.Diff(uses, same); diff != "" {
		t.Errorf("the operator is told something else:\n%s", diff)
	}
	none, err := w.Stranger.Quotas(ctx)
	check(t, err)
	for _, q := range none {
		if q.Used != 0 || q.Label == "" {
			t.Errorf("the stranger's %+v, want none used", q)
		}
	}
	_, err = w.Operator.Quotas(ctx, "1999999999999999")
	fails(t, err, domain.NotFound, "account_not_found")
}
