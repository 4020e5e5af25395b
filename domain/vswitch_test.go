package domain_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func TestCreateVSwitchRefusals(t *testing.T) {
	c := newCampus(t)
	tests := []struct {
		name, zone, cidr, want string
	}{
		{"longest", domaintest.ZoneH, "10.0.3.0/29", ""},
		{"several in a zone", domaintest.ZoneH, "10.0.4.0/22", ""},
		{"too long", domaintest.ZoneH, "10.0.3.8/30", "cidr: cidr_size"},
		{"too short", domaintest.ZoneH, "10.0.0.0/15", "cidr: cidr_size"},
		{"the same", domaintest.ZoneI, "10.0.1.0/24", "cidr: cidr_overlaps"},
		{"around", domaintest.ZoneI, "10.0.0.0/16", "cidr: cidr_overlaps"},
		{"within", domaintest.ZoneI, "10.0.2.64/26", "cidr: cidr_overlaps"},
		{"outside", domaintest.ZoneI, "10.1.0.0/24", "cidr: cidr_outside_vpc"},
		{"host bits", domaintest.ZoneI, "10.0.8.1/24", "cidr: invalid_cidr"},
		{"no zone", "", "10.0.8.0/24", "zone_id: zone_not_found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			stale := c.staleSince(t, func() {
				_, err = c.Provider.CreateVSwitch(t.Context(), c.vpc.ID, domain.VSwitchInput{Name: "new", ZoneID: tt.zone, CIDR: tt.cidr})
			})
			if got := faults(err); got != tt.want {
				t.Fatalf("got %q, want %q: %v", got, tt.want, err)
			}
			if want := []string{"vpc " + c.vpc.ID}; err == nil && !slices.Equal(stale, want) {
				t.Errorf("stale: %v, want %v", stale, want)
			}
		})
	}
	// The message says with what.
	_, err := c.Provider.CreateVSwitch(t.Context(), c.vpc.ID, domain.VSwitchInput{ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"})
	if err == nil || !strings.Contains(err.Error(), "vSwitch vsw-h ("+c.h.ID+"), 10.0.1.0/24") {
		t.Errorf("the message does not name what it overlaps: %v", err)
	}
}

func TestZoneOfAnotherRegion(t *testing.T) {
	c := newCampus(t)
	must(c.Operator.CreateRegion(t.Context(), domain.RegionInput{ID: "eu-west-1"}))(t)
	must(c.Operator.CreateZone(t.Context(), domain.ZoneInput{ID: "eu-west-1-a", RegionID: "eu-west-1"}))(t)
	_, err := c.Provider.CreateVSwitch(t.Context(), c.vpc.ID, domain.VSwitchInput{ZoneID: "eu-west-1-a", CIDR: "10.0.9.0/24"})
	if got := faults(err); got != "zone_id: zone_not_found" {
		t.Errorf("got %q", got)
	}
}

func TestDeleteVSwitch(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	account := p.Account().ID
	a := c.managed(t, c.h, "web", "")
	c.insert(t,
		&domain.LoadBalancer{ID: "nlb-1", AccountID: account, VPCID: c.vpc.ID, Name: "front"},
		&domain.LoadBalancerZone{LoadBalancerID: "nlb-1", ZoneID: domaintest.ZoneH, AccountID: account, VSwitchID: c.h.ID, Address: "10.0.1.9"},
		&domain.Endpoint{ID: "ep-1", AccountID: account, VPCID: c.vpc.ID, Name: "to-orders"},
		&domain.EndpointZone{EndpointID: "ep-1", ZoneID: domaintest.ZoneH, AccountID: account, VSwitchID: c.h.ID, Address: "10.0.1.10"},
	)
	err := p.DeleteVSwitch(ctx, c.h.ID)
	if domain.KindOf(err) != domain.Conflict || reason(err) != "vswitch_in_use" {
		t.Fatalf("got %v, want a Conflict", err)
	}
	for _, want := range []string{"vsw-h is in use by", "endpoint to-orders (ep-1)", "load balancer front (nlb-1)", "and attachment web (" + a.ID + ")."} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if err := p.DeleteVSwitch(ctx, c.i.ID); err != nil {
		t.Fatal(err)
	}
	if left := must(p.VSwitches(ctx, ""))(t); len(left) != 1 || left[0].ID != c.h.ID {
		t.Errorf("left: %v", left)
	}
}
