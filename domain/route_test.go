package domain_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// office is a campus with a router in each vSwitch: gate in h and wall in i.
type office struct {
	*campus
	table      string
	gate, wall *domain.Attachment
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{campus: newCampus(t)}
	o.table = must(o.Provider.VPC(t.Context(), o.vpc.ID))(t).RouteTableID
	o.gate, o.wall = o.managed(t, o.h, "gate", "10.0.1.10"), o.managed(t, o.i, "wall", "10.0.2.10")
	return o
}

// up lets the engine have seen an attachment.
func (o *office) up(t *testing.T, a *domain.Attachment) {
	t.Helper()
	if err := o.Store.DB().Model(&domain.Attachment{}).Where("id = ?", a.ID).Update("engine_up", true).Error; err != nil {
		t.Fatal(err)
	}
}

// lines are routes as text.
func lines(views []domain.RouteView) (out []string) {
	for _, v := range views {
		out = append(out, fmt.Sprintf("%s %s %s %s %s", v.Destination, v.NextHopType, v.NextHopName, v.Origin, v.Status))
	}
	return out
}

func TestRouteRefusals(t *testing.T) {
	o := newOffice(t)
	ctx, p := t.Context(), o.Provider
	offer := o.offers(t)
	host := must(p.CreateAttachment(ctx, domain.AttachmentInput{VPCID: o.vpc.ID, Kind: domain.AttachHost, Name: "database", OfferID: offer["database"]}))(t)
	port := must(p.CreateAttachment(ctx, domain.AttachmentInput{
		VPCID: o.vpc.ID, VSwitchID: o.h.ID, Kind: domain.AttachPort, OfferID: offer["publish"], HostPort: 8080, TargetIP: "10.0.2.9", TargetPort: 80,
	}))(t)
	elsewhere := must(p.CreateVPC(ctx, domain.VPCInput{Name: "elsewhere", RegionID: domaintest.Region, CIDR: "10.0.0.0/16", VSwitches: []domain.VSwitchInput{
		{ZoneID: domaintest.ZoneH, CIDR: "10.0.1.0/24"},
	}}))(t)
	far := o.managed(t, must(p.VSwitches(ctx, elsewhere.ID))(t)[0].VSwitch, "far", "")
	gate, wall := o.gate.ID, o.wall.ID

	to := func(destination, hop string) domain.RouteInput {
		return domain.RouteInput{Destination: destination, NextHopID: hop}
	}
	tests := []struct {
		name  string
		draft []domain.RouteInput
		want  string
	}{
		{"none", nil, ""},
		{"default", []domain.RouteInput{to("0.0.0.0/0", gate)}, ""},
		{"outside the VPC", []domain.RouteInput{to("203.0.113.0/24", gate)}, ""},
		{"around the VPC", []domain.RouteInput{to("10.0.0.0/8", gate)}, ""},
		{"part of the VPC", []domain.RouteInput{to("10.0.128.0/17", gate)}, ""},
		{"half of the VPC with its own vSwitch", []domain.RouteInput{to("10.0.0.0/17", gate)}, ""},
		{"another vSwitch", []domain.RouteInput{to("10.0.2.0/24", gate)}, ""},
		{"part of another vSwitch", []domain.RouteInput{to("10.0.2.128/25", gate)}, ""},
		{"part of its own vSwitch without it", []domain.RouteInput{to("10.0.1.128/25", gate)}, ""},
		{"chain", []domain.RouteInput{to("0.0.0.0/0", gate), to("10.0.1.0/24", wall)}, ""},

		{"no destination", []domain.RouteInput{to("", gate)}, "routes.0.destination: invalid_cidr"},
		{"host bits", []domain.RouteInput{to("203.0.113.7/24", gate)}, "routes.0.destination: invalid_cidr"},
		{"IPv6", []domain.RouteInput{to("fd00::/8", gate)}, "routes.0.destination: invalid_cidr"},
		{"the VPC", []domain.RouteInput{to("10.0.0.0/16", gate)}, "routes.0.destination: destination_vpc"},
		{"platform", []domain.RouteInput{to("100.64.0.0/10", gate)}, "routes.0.destination: destination_reserved"},
		{"in the platform", []domain.RouteInput{to("100.100.100.200/32", gate)}, "routes.0.destination: destination_reserved"},
		{"loopback", []domain.RouteInput{to("127.0.0.1/32", gate)}, "routes.0.destination: destination_reserved"},
		{"metadata", []domain.RouteInput{to("169.254.169.254/32", gate)}, "routes.0.destination: destination_reserved"},
		{"multicast", []domain.RouteInput{to("224.0.0.0/24", gate)}, "routes.0.destination: destination_reserved"},
		{"a gateway", []domain.RouteInput{to("10.0.2.1/32", gate)}, "routes.0.destination: destination_gateway"},
		{"twice", []domain.RouteInput{to("203.0.113.0/24", gate), to(" 203.0.113.0/24", wall)}, "routes.1.destination: route_twice"},
		{"no next hop", []domain.RouteInput{to("203.0.113.0/24", "")}, "routes.0.next_hop_id: missing_next_hop"},
		{"next hop elsewhere", []domain.RouteInput{to("203.0.113.0/24", far.ID)}, "routes.0.next_hop_id: attachment_not_found"},
		{"host service", []domain.RouteInput{to("203.0.113.0/24", host.ID)}, "routes.0.next_hop_id: next_hop_kind"},
		{"published port", []domain.RouteInput{to("203.0.113.0/24", port.ID)}, "routes.0.next_hop_id: next_hop_kind"},
		{
			"several",
			[]domain.RouteInput{to("0.0.0.0/0", gate), {Destination: "x", NextHopID: "y", Description: "http://z"}},
			"routes.1.destination: invalid_cidr, routes.1.next_hop_id: attachment_not_found, routes.1.description: invalid_description",
		},

		{"itself", []domain.RouteInput{to("10.0.1.10/32", gate)}, "routes.0.next_hop_id: route_loop"},
		{"its own vSwitch", []domain.RouteInput{to("10.0.1.0/24", gate)}, "routes.0.next_hop_id: route_loop"},
		{"its part of the vSwitch", []domain.RouteInput{to("10.0.1.0/25", gate)}, "routes.0.next_hop_id: route_loop"},
		{
			"loop of two",
			[]domain.RouteInput{to("203.0.113.0/24", gate), to("10.0.1.0/24", wall), to("10.0.2.0/24", gate)},
			"routes.0.next_hop_id: route_loop, routes.1.next_hop_id: route_loop, routes.2.next_hop_id: route_loop",
		},
		{
			"loop broken by a longer route",
			[]domain.RouteInput{to("10.0.1.0/24", wall), to("10.0.2.0/24", gate), to("10.0.1.10/32", gate)},
			"routes.1.next_hop_id: route_loop, routes.2.next_hop_id: route_loop",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := p.PlanRoutes(ctx, o.table, tt.draft)
			if got := faults(err); got != tt.want {
				t.Errorf("plan: got %q, want %q: %v", got, tt.want, err)
			}
			_, err = p.ReplaceRoutes(ctx, o.table, tt.draft, 0)
			if got := faults(err); got != tt.want {
				t.Errorf("replace: got %q, want %q: %v", got, tt.want, err)
			}
		})
	}
}

func TestReplaceRoutes(t *testing.T) {
	o := newOffice(t)
	ctx, p := t.Context(), o.Provider
	o.up(t, o.gate)
	first := []domain.RouteInput{
		{Destination: "203.0.113.0/24", NextHopID: o.gate.ID, Description: "to the partner"},
		{Destination: "9.0.0.0/8", NextHopID: o.wall.ID},
		{Destination: "10.0.2.0/24", NextHopID: o.gate.ID},
	}
	if before := must(p.PlanRoutes(ctx, o.table, first))(t); len(before.Added) != 3 {
		t.Errorf("plan: %+v", before)
	}
	if got := must(p.RouteTable(ctx, o.table))(t); len(got.Routes) != 2 || got.Version != 1 {
		t.Errorf("a plan changed the table: %+v", got)
	}
	var diff *domain.RouteDiff
	stale := o.staleSince(t, func() { diff = must(p.ReplaceRoutes(ctx, o.table, first, 1))(t) })
	if want := []string{"vpc " + o.vpc.ID}; !slices.Equal(stale, want) {
		t.Errorf("stale: %v, want %v", stale, want)
	}
	want := []string{
		"9.0.0.0/8 attachment wall custom blackhole",
		"10.0.1.0/24 local vsw-h system active",
		"10.0.2.0/24 attachment gate custom active",
		"10.0.2.0/24 local vsw-i system active",
		"203.0.113.0/24 attachment gate custom active",
	}
	got := must(p.RouteTable(ctx, o.table))(t)
	if d := gocmp.Diff(want, lines(got.Routes)); d != "" {
		t.Errorf("table:\n%s", d)
	}
	if got.Version != 2 || got.Routes[4].Description != "to the partner" || got.VPC.ID != o.vpc.ID {
		t.Errorf("got %+v", got)
	}
	if got := must(p.RouteTables(ctx, domain.Query{}))(t).Items; len(got) != 1 || got[0].System != 2 || got[0].Custom != 3 || got[0].VPCName != "core" {
		t.Errorf("list: %+v", got)
	}

	second := []domain.RouteInput{
		{Destination: "9.0.0.0/8", NextHopID: o.gate.ID},
		{Destination: "203.0.113.0/24", NextHopID: o.gate.ID, Description: "to the partner's"},
	}
	if _, err := p.ReplaceRoutes(ctx, o.table, second, 1); reason(err) != "route_table_changed" || domain.KindOf(err) != domain.Conflict {
		t.Errorf("with the old version: %v", err)
	}
	diff = must(p.ReplaceRoutes(ctx, o.table, second, 2))(t)
	for _, d := range []struct {
		name string
		got  []domain.RouteView
		want []string
	}{
		{"added", diff.Added, []string{"9.0.0.0/8 attachment gate custom active"}},
		{"removed", diff.Removed, []string{"9.0.0.0/8 attachment wall custom blackhole", "10.0.2.0/24 attachment gate custom active"}},
		{"kept", diff.Kept, []string{"203.0.113.0/24 attachment gate custom active"}},
	} {
		if diff := gocmp.Diff(d.want, lines(d.got)); diff != "" {
			t.Errorf("%s:\n%s", d.name, diff)
		}
	}
	if got := must(p.RouteTable(ctx, o.table))(t); got.Routes[3].Description != "to the partner's" {
		t.Errorf("the description is the old one: %+v", got.Routes)
	}
}

// TestTwoPeopleEditRoutes lets two drafts of one version be applied at once.
func TestTwoPeopleEditRoutes(t *testing.T) {
	o := newOffice(t)
	results := make([]error, 4)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			_, results[i] = o.Provider.ReplaceRoutes(t.Context(), o.table, []domain.RouteInput{{Destination: fmt.Sprintf("203.0.%d.0/24", i), NextHopID: o.gate.ID}}, 1)
		})
	}
	wg.Wait()
	won := -1
	for i, err := range results {
		switch {
		case err == nil && won >= 0:
			t.Errorf("drafts %d and %d were both applied", won, i)
		case err == nil:
			won = i
		case reason(err) != "route_table_changed":
			t.Errorf("got %v, want a Conflict", err)
		}
	}
	routes := must(o.Provider.RouteTable(t.Context(), o.table))(t).Routes
	if i := slices.IndexFunc(routes, func(v domain.RouteView) bool { return v.Destination == fmt.Sprintf("203.0.%d.0/24", won) }); won < 0 || i < 0 || len(routes) != 3 {
		t.Errorf("draft %d won, the table is %v", won, lines(routes))
	}
}

func TestRouteQuota(t *testing.T) {
	o := newOffice(t)
	if err := o.Operator.SetQuota(t.Context(), o.Provider.Account().ID, "routes_per_table", 1); err != nil {
		t.Fatal(err)
	}
	draft := []domain.RouteInput{{Destination: "203.0.113.0/24", NextHopID: o.gate.ID}, {Destination: "0.0.0.0/0", NextHopID: o.gate.ID}}
	if _, err := o.Provider.ReplaceRoutes(t.Context(), o.table, draft, 0); domain.KindOf(err) != domain.Limit {
		t.Errorf("two routes: %v", err)
	}
	if _, err := o.Provider.ReplaceRoutes(t.Context(), o.table, draft[:1], 0); err != nil {
		t.Errorf("one route: %v", err)
	}
}

func TestRouteWarnings(t *testing.T) {
	o := newOffice(t)
	ctx, p := t.Context(), o.Provider
	clients := must(p.CreateVSwitch(ctx, o.vpc.ID, domain.VSwitchInput{Name: "clients", ZoneID: domaintest.ZoneI, CIDR: "10.0.3.0/24"}))(t)
	o.up(t, o.gate)
	tests := []struct {
		name  string
		draft []domain.RouteInput
		want  []string
	}{
		{"nothing to say", []domain.RouteInput{{Destination: "203.0.113.0/24", NextHopID: o.gate.ID}}, nil},
		{"not up", []domain.RouteInput{{Destination: "203.0.113.0/24", NextHopID: o.wall.ID}}, []string{
			"203.0.113.0/24: wall is not up. What is sent this way is lost until it is.",
		}},
		{"shadowed", []domain.RouteInput{{Destination: "10.0.0.0/22", NextHopID: o.gate.ID}}, []string{
			"10.0.0.0/22: the longer system routes win for the vSwitches in it: vsw-h, vsw-i, clients.",
		}},
		{"one way through another zone", []domain.RouteInput{{Destination: "10.0.2.0/24", NextHopID: o.gate.ID}}, []string{
			"10.0.2.0/24: vSwitch vsw-i is in zone cn-hangzhou-i, gate in zone cn-hangzhou-h: traffic crosses zones.",
			"10.0.2.0/24: replies from vSwitch vsw-i to clients do not pass gate.",
		}},
		{"both ways", []domain.RouteInput{{Destination: "10.0.2.0/24", NextHopID: o.gate.ID}, {Destination: clients.CIDR, NextHopID: o.gate.ID}}, []string{
			"10.0.2.0/24: vSwitch vsw-i is in zone cn-hangzhou-i, gate in zone cn-hangzhou-h: traffic crosses zones.",
			"10.0.3.0/24: vSwitch clients is in zone cn-hangzhou-i, gate in zone cn-hangzhou-h: traffic crosses zones.",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := gocmp.Diff(tt.want, must(p.PlanRoutes(ctx, o.table, tt.draft))(t).Warnings); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLookupRoute(t *testing.T) {
	o := newOffice(t)
	ctx, p := t.Context(), o.Provider
	must(p.ReplaceRoutes(ctx, o.table, []domain.RouteInput{
		{Destination: "203.0.0.0/16", NextHopID: o.gate.ID},
		{Destination: "203.0.113.0/24", NextHopID: o.wall.ID},
		{Destination: "10.0.2.0/24", NextHopID: o.gate.ID},
		{Destination: "10.0.0.0/8", NextHopID: o.gate.ID},
	}, 0))(t)
	for address, want := range map[string]string{
		"203.0.113.9": "203.0.113.0/24 attachment wall custom blackhole",
		"203.0.114.9": "203.0.0.0/16 attachment gate custom blackhole",
		"10.0.1.9":    "10.0.1.0/24 local vsw-h system active", // longer than 10.0.0.0/8
		"10.0.2.9":    "10.0.2.0/24 attachment gate custom blackhole",
		"10.9.9.9":    "10.0.0.0/8 attachment gate custom blackhole",
		"8.8.8.8":     "    none",
	} {
		if got := lines([]domain.RouteView{*must(p.LookupRoute(ctx, o.table, address))(t)})[0]; got != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
	}
	if _, err := p.LookupRoute(ctx, o.table, "8.8.8.8/32"); faults(err) != "address: invalid_address" {
		t.Errorf("no address: %v", err)
	}
}

func TestRoutesNameTheirTable(t *testing.T) {
	o := newOffice(t)
	must(o.Provider.ReplaceRoutes(t.Context(), o.table, []domain.RouteInput{{Destination: "0.0.0.0/0", NextHopID: o.gate.ID}}, 0))(t)
	err := o.Provider.DeleteAttachment(t.Context(), o.gate.ID)
	if domain.KindOf(err) != domain.Conflict || !strings.Contains(err.Error(), "route table core ("+o.table+")") {
		t.Errorf("got %v, want a Conflict that names the table", err)
	}
}
